"""The report in real Chromium: it loads alone, draws, sorts, filters, turns dark and fits a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from chromium import console, requests, set_screen, start_chromium
from comparison_folder import AFTER, write_comparison
from PIL import Image

from materium_rl.evaluation.report.page import write_report

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

DESK, PHONE = (1280, 900), (360, 740)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    started = start_chromium(tmp_path_factory.mktemp("profile"))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def address(browser: Chrome, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(write_comparison(tmp_path_factory.mktemp("page") / "comparison")).as_uri()


@pytest.fixture
def page(browser: Chrome, address: str) -> Chrome:
    """The page, newly opened on a desk."""
    set_screen(browser, *DESK)
    browser.get(address)
    browser.execute_script("localStorage.clear()")
    browser.get(address)
    wait_until(browser, "document.readyState === 'complete'")
    return browser


def run(page: Chrome, script: str, *arguments: Any) -> Any:
    return page.execute_script(script, *arguments)


def wait_until(page: Chrome, condition: str) -> None:
    """Wait for a condition in JavaScript."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 60).until(lambda _: run(page, f"return {condition}"))


def column(page: Chrome, key: str) -> list[str]:
    """Values of a column of the discoveries that are shown, from the top."""
    return run(
        page,
        """const at = [...table.tHead.rows[0].cells].findIndex((th) => th.dataset.key === arguments[0]);
        return [...table.tBodies[0].rows].filter((r) => !r.hidden).map((r) => r.cells[at].dataset.value)""",
        key,
    )


def filter_by(page: Chrome, key: str, text: str) -> None:
    run(
        page,
        """const at = [...table.tHead.rows[0].cells].findIndex((th) => th.dataset.key === arguments[0]);
        const field = table.tHead.rows[1].cells[at].firstElementChild;
        field.value = arguments[1]; field.dispatchEvent(new Event('input'))""",
        key,
        text,
    )


def heading(page: Chrome, key: str) -> Any:
    return page.find_element("css selector", f"th[data-key={key}] button")


def drawn(page: Chrome) -> np.ndarray:
    """Pixels of the 3D view that are not background, (H, W)."""
    viewer = page.find_element("id", "viewer")
    run(page, "arguments[0].scrollIntoView({block: 'center'})", viewer)
    wait_until(page, "!!document.querySelector('#viewer canvas')")
    pixels = np.asarray(Image.open(BytesIO(viewer.screenshot_as_png)).convert("RGB")).astype(int)
    return np.abs(pixels - pixels[2, 2]).max(axis=2) > 40


def test_it_loads_alone_and_without_errors(browser: Chrome, address: str) -> None:
    set_screen(browser, *DESK)
    browser.get("about:blank")
    console(browser), requests(browser)
    browser.get(address)
    drawn(browser)  # the 3D view, too
    assert console(browser) == []
    assert requests(browser) == [address]


def test_no_script_of_the_data_ran(page: Chrome) -> None:
    assert page.title == f"Comparison of before and {AFTER}"
    assert run(page, "return document.images.length") == 0


def test_figures_are_drawn(page: Chrome) -> None:
    sizes = run(
        page,
        """return [...document.querySelectorAll('.drawing svg')].map((svg) => {
          const box = svg.getBoundingClientRect();
          const inside = [...svg.querySelectorAll('text')].every((t) => {
            const b = t.getBoundingClientRect();
            return b.left > box.left - 5 && b.right < box.right + 5 && b.top > box.top - 5
          && b.bottom < box.bottom + 5;
          });
          return [box.width, box.height, svg.querySelectorAll('path').length, inside];
        })""",
    )
    assert len(sizes) == 25
    for width, height, paths, inside in sizes:
        assert width > 250
        assert height > 80
        assert paths > 5
        assert inside


def test_sorting_by_mouse_and_by_keyboard(page: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    assert column(page, "rank") == ["1", "2", "3"]
    energy = heading(page, "e_above_hull")
    for order, values in (("ascending", ["0.01", "0.02", "0.09"]), ("descending", ["0.09", "0.02", "0.01"])):
        energy.send_keys(Keys.ENTER)
        assert column(page, "e_above_hull") == values
        assert run(page, "return arguments[0].closest('th').ariaSort", energy) == order
    run(page, "arguments[0].click()", heading(page, "formula"))
    assert column(page, "formula") == sorted(column(page, "formula"), key=str.lower)
    assert run(page, "return document.querySelectorAll('[aria-sort]').length") == 1


def test_filters(page: Chrome) -> None:
    count = page.find_element("id", "count")
    filter_by(page, "e_above_hull", "<0.05")
    assert column(page, "e_above_hull") == ["0.01", "0.02"]
    assert count.text == "2 of 3 shown"
    filter_by(page, "e_above_hull", "0.015 .. 0.1")
    assert column(page, "e_above_hull") == ["0.02", "0.09"]
    filter_by(page, "times", "2")
    filter_by(page, "formula", "nacl")
    assert column(page, "formula") == ["NaCl"]
    filter_by(page, "e_above_hull", "low")
    assert run(page, "return document.querySelectorAll('[aria-invalid=true]').length") == 1
    assert "looks like <0.05" in count.text
    run(page, "document.getElementById('clear').click()")
    assert len(column(page, "rank")) == 3
    filter_by(page, "policy", AFTER)
    assert len(column(page, "rank")) == 3
    filter_by(page, "policy", "before")
    assert column(page, "formula") == ["NaCl"]
    run(page, "document.getElementById('clear').click()")
    page.find_element("id", "filter").send_keys("substitution")
    assert column(page, "tier") == ["substitution"]


def test_3d_view_draws_the_structure_that_is_picked(page: Chrome) -> None:
    if not run(page, "return !!document.createElement('canvas').getContext('webgl2')"):
        pytest.skip("this Chromium has no WebGL")
    first = drawn(page)
    assert 0.01 < first.mean() < 0.9
    page.find_element("css selector", "tr[data-row='1'] .pick").send_keys("\n")
    assert run(page, "return document.activeElement.id") == "structure-title"
    assert page.find_element("id", "structure-title").text == "2. NaCl"
    assert "NaCl: Fm-3m (225), 8 sites" in page.find_element("id", "viewer").get_attribute("aria-label")
    second = drawn(page)
    assert (second != first).mean() > 0.01
    lattice = page.find_element("id", "lattice").get_attribute("textContent")
    assert lattice == "a 5.690, b 5.690, c 5.690 Å; α 90.00°, β 90.00°, γ 90.00°"
    assert run(page, "return document.querySelectorAll('#sites tbody tr').length") == 8
    run(page, "document.getElementById('cells').click()")
    assert (drawn(page) != second).mean() > 0.01
    run(page, "document.getElementById('next').click()")
    assert page.find_element("id", "structure-title").text.startswith("3. ")
    assert console(page) == []


def test_dark_by_the_system_and_by_the_switch(page: Chrome) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    text = "return getComputedStyle(document.querySelector('.drawing svg text')).fill"
    light = run(page, background)
    set_screen(page, *DESK, dark=True)
    dark = run(page, background)
    assert brightness(light) > 0.9
    assert brightness(dark) < 0.15
    assert brightness(run(page, text)) > 0.8  # the charts follow
    theme = page.find_element("id", "theme")
    assert theme.get_attribute("aria-pressed") == "true"
    theme.click()
    assert run(page, background) == light
    page.refresh()
    assert run(page, background) == light  # remembered


def brightness(colour: str) -> float:
    """Mean of ``rgb(r, g, b)``, 0 to 1."""
    return float(np.mean([float(part) for part in colour.strip("rgba()").split(",")[:3]])) / 255


def test_it_fits_a_phone(page: Chrome) -> None:
    set_screen(page, *PHONE)
    run(page, "for (const d of document.querySelectorAll('details')) d.open = true")
    assert run(page, "return document.documentElement.scrollWidth") == PHONE[0]
    smallest = run(
        page,
        """return Math.min(...[...document.querySelectorAll('.drawing text')].map((t) =>
          parseFloat(getComputedStyle(t).fontSize) * Math.hypot(t.getCTM().a, t.getCTM().b)))""",
    )
    assert smallest >= 9  # CSS pixels


@pytest.mark.parametrize(("screen", "dark"), [(DESK, False), (PHONE, True)])
def test_axe_finds_nothing(page: Chrome, screen: tuple[int, int], dark: bool) -> None:
    """Rules of WCAG 2 A and AA and the best practices, by axe-core."""
    path = os.environ.get("MATERIUM_AXE")
    if path is None:
        package = find_spec("axe_core_python")
        if package is None or package.origin is None:
            pytest.skip("needs axe-core-python, of the dev extra, or MATERIUM_AXE=axe.min.js")
        path = str(Path(package.origin).with_name("axe.min.js"))
    set_screen(page, *screen, dark=dark)
    run(page, "for (const d of document.querySelectorAll('details')) d.open = true")
    run(page, Path(path).read_text(encoding="utf-8"))
    found = page.execute_async_script("axe.run().then(arguments[0])")
    faults = [
        (f["id"], node["html"][:200], node["failureSummary"])
        for f in found["violations"]
        for node in f["nodes"]
    ]
    assert faults == []
    assert len(found["passes"]) > 20
