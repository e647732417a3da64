"""Headless Chromium for tests of pages: without a network, with a profile of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "about:blank",
)


def start_chromium(profile: Path) -> Chrome:
    """Start the browser; the test is skipped where it, its driver or selenium is missing.

    Args:
        profile: New folder for its data.
    """
    pytest.importorskip("selenium", reason="needs selenium, of the dev extra")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = browser
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options=options, service=ChromeService(driver))


def set_screen(browser: Chrome, width: int, height: int, *, dark: bool = False) -> None:
    """Give the page a screen of so many CSS pixels, and the system a light or dark mode."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    mode = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [mode]})


def console(browser: Chrome) -> list[str]:
    """What was written to the console since the last look, but for remarks of the graphics driver."""
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        if "GL Driver Message" not in entry["message"]
    ]


def requests(browser: Chrome) -> list[str]:
    """Addresses that were asked for since the last look."""
    events: list[dict[str, Any]] = [
        json.loads(entry["message"])["message"] for entry in browser.get_log("performance")
    ]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
