"""The report of a comparison, without a browser: what is in it, and that nothing in it can run or load."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from comparison_folder import AFTER, BEFORE, EVIL, write_comparison
from html_page import Elements
from real_structures import rock_salt
from typer.testing import CliRunner

from materium_rl import cli
from materium_rl.errors import ConfigError
from materium_rl.evaluation.comparison.record import SCHEMA, ComparisonRecord, read_comparison, schema
from materium_rl.evaluation.definitions import DEFINITIONS
from materium_rl.evaluation.discoveries.sources import read_samples
from materium_rl.evaluation.report import distributions, drawing
from materium_rl.evaluation.report.findings import Findings, find_best, pack
from materium_rl.evaluation.report.page import write_report
from materium_rl.evaluation.report.wording import formula_markup, space_group

pytestmark = pytest.mark.filterwarnings("error:constrained_layout")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_comparison(tmp_path_factory.mktemp("report") / "comparison")


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    done = CliRunner().invoke(cli.app, ["report", str(folder)])
    assert done.exception is None, done.output
    assert done.output.strip() == str(folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Elements:
    return Elements(text)


@pytest.fixture(scope="module")
def found(folder: Path) -> Findings:
    return find_best(read_samples(folder))


def test_discoveries_are_the_stable_new_structures_each_once_the_best_first(found: Findings) -> None:
    assert found.total == len(found.shown) == 3
    assert [f.values["reward"] for f in found.shown] == [0.99, 0.98, 0.91]
    substitution, shared, pair = found.shown
    assert substitution.values["tier"] == "substitution"
    assert (shared.values["formula"], shared.values["times"]) == ("NaCl", 2)
    assert set(shared.values["policy"]) == {BEFORE, AFTER}  # one crystal, at another origin
    assert shared.values["best_policy"] == AFTER
    assert (pair.values["times"], pair.values["policy"]) == (2, (AFTER,))


def test_limit_of_the_table_is_told(folder: Path) -> None:
    found = find_best(read_samples(folder), most=2)
    assert (len(found.shown), found.total) == (2, 3)


def test_without_a_reward_the_lowest_energy_is_the_best(folder: Path) -> None:
    samples = read_samples(folder)
    samples.frame = samples.frame.drop(columns="reward")
    found = find_best(samples)
    assert found.ranked_by == "energy above the hull"
    assert [f.values["e_above_hull"] for f in found.shown] == [0.01, 0.02, 0.09]
    assert "reward" not in found.columns


def test_packed_structure_is_the_same_crystal() -> None:
    packed = pack(rock_salt().add_oxidation_state_by_element({"Na": 1, "Cl": -1}))
    assert packed["e"] == ["Na", "Cl"]
    assert packed["m"] == [5.69, 0, 0, 0, 5.69, 0, 0, 0, 5.69]
    assert packed["s"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert packed["x"] == pytest.approx(list(rock_salt().frac_coords.ravel() % 1))


def test_tiers_are_shares_of_the_requested_equal_ones_once(folder: Path) -> None:
    samples = read_samples(folder).frame
    chart = distributions.tiers({name: samples[samples["policy"] == name] for name in (BEFORE, AFTER)})
    assert chart is not None
    # of 3 requested one new prototype; of 7 two (four samples, a pair and one too high), one swap, one known
    cells = {row[0]: row[1:] for row in chart.rows}
    assert cells["new prototype"] == ("33.3", "28.6")
    assert cells["substitution"] == ("0.0", "14.3")
    assert cells["known structure"] == ("0.0", "14.3")


def test_distributions_count_the_valid_samples(folder: Path) -> None:
    record, samples = read_comparison(folder), read_samples(folder).frame
    frames = {p.name: samples[samples["policy"] == p.name] for p in record.policies}
    charts = {chart.key: chart for chart in distributions.distributions(frames, record.settings)}
    assert set(charts) == {"elements", "sites", "space_groups", "density", "band_gap", "e_above_hull"}
    elements = {row[0]: row[1] for row in charts["elements"].rows}
    assert (elements["Na"], elements["O"]) == ("50.0", "50.0")  # rock salt and rutile
    assert "below it: before 50.0 %" in charts["e_above_hull"].text
    for key in ("density", "band_gap", "e_above_hull"):
        assert all(sum(float(row[i]) for row in charts[key].rows) <= 100.5 for i in (1, 2))


def test_no_text_of_the_data_becomes_markup(text: str, page: Elements) -> None:
    assert "<script>document.title" not in text
    assert EVIL not in text
    assert [a.get("id") for a in page.all("script")] == ["data", None, None]
    assert page.all("img") == []
    assert not [name for _, a in page.elements for name in a if name.startswith("on")]
    told = [data for tag, data in page.texts if tag != "script"]
    assert any(EVIL in data for data in told)  # shown as it is written


def test_only_the_scripts_of_the_page_may_run_and_nothing_is_loaded(text: str, page: Elements) -> None:
    (policy,) = [a["content"] or "" for a in page.all("meta") if a.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts}
    assert set(rules["script-src"].split()) == hashes
    assert len(hashes) == 2
    addresses = [
        value
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "action", "data") and tag != "script"
    ]
    assert {(value or "")[:5] for value in addresses if not (value or "").startswith("#")} == {"data:"}
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", "".join(data for tag, data in page.texts if tag == "style"))


def test_references_headings_and_headers_are_sound(page: Elements) -> None:
    page.check()
    charts = [a for a in page.all("div") if a.get("role") == "img"]
    assert len(charts) == 26  # the 3D view, too
    assert all(len(a["aria-label"] or "") > 5 for a in charts)


def test_differences_controls_cost_and_trajectory(page: Elements) -> None:
    told = [data.strip() for _, data in page.texts]
    for section in (
        "Differences",
        "Rarefaction",
        "Controls",
        "Cost",
        "Found with the reward calls",
        "Trajectory",
    ):
        assert told.count(section) == 2  # in the list of sections, and as a heading
    for cells in (("+20.0", "+12.0 to +28.0"), ("2.00×", "1.50 to ∞"), ("−5.0", "−9.0 to −1.0"), ("20,480",)):
        assert all(text in told for text in cells)
    assert any(text.startswith("Of all samples: before 2, after") for text in told)
    assert any(text.startswith("In the end: after") and text.endswith("1,500.") for text in told)
    assert any(text.startswith("S.U.N., %, from the baseline to the last step: after") for text in told)


def test_second_judge_is_named_and_counted(page: Elements) -> None:
    told = [data.strip() for _, data in page.texts]
    assert "SevenNet-0: independent" in told
    assert "CHGNet: optimised proxy" in told
    assert "35.0" in told  # of the policy after, by each judge
    assert any("which the reward (chgnet) did not use" in text for text in told)


def test_every_figure_is_shown_and_defined(page: Elements) -> None:
    told = [data.strip() for _, data in page.texts]
    for definition in DEFINITIONS:
        assert definition.title in told
        assert any(a.get("id") == f"def-{definition.key}" for a in page.all("div"))
    assert "40.0" in told  # S.U.N. after
    assert "30.0–50.0" in told


def test_a_name_with_a_dollar_is_no_formula_of_the_charts() -> None:
    svg = drawing.bars(["$x_1$ & <b>"], {"a $\\alpha$": [(1.0, 0.5, 1.5)], "b": [(2.0, 1.0, 3.0)]}, label="%")
    assert "$x_1$ &amp; &lt;b&gt;" in svg
    assert "a $\\alpha$" in svg
    assert "#0" not in svg  # every colour is one of the page's


def test_long_names_leave_room_for_the_chart() -> None:
    svg = drawing.bars(["x"], {"n" * 80: [(1.0, 0.5, 1.5)], "b": [(2.0, 1.0, 3.0)]}, label="%")
    assert "n" * 27 + "…" in svg
    assert "n" * 28 not in svg


def test_formulas_and_space_groups() -> None:
    assert formula_markup("Cs2(MnBr5)2") == "Cs<sub>2</sub>(MnBr<sub>5</sub>)<sub>2</sub>"
    assert formula_markup("<b>2&") == "&lt;b&gt;2&amp;"
    assert [space_group(n) for n in (8, 194, 225)] == ["Cm (8)", "P6₃/mmc (194)", "Fm-3m (225)"]


def test_schema_is_that_of_the_models_and_fits_what_is_written(folder: Path) -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema()
    described = json.loads(schema())
    jsonschema.Draft202012Validator.check_schema(described)
    record = json.loads((folder / "comparison.json").read_text())
    jsonschema.validate(record, described)
    del record["policies"][0]["figures"]
    with pytest.raises(jsonschema.ValidationError, match="'figures' is a required property"):
        jsonschema.validate(record, described)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("policies"), "policies: Field required"),
        (lambda r: r["policies"][0].update(requested="many"), "policies.0.requested"),
        (lambda r: r["policies"][1]["figures"].update(sun=3), "policies.1.figures.sun"),
    ],
)
def test_damaged_record_is_named(folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    record = json.loads((folder / "comparison.json").read_text())
    change(record)
    (tmp_path / "comparison.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=message):
        write_report(tmp_path)


def test_folder_without_a_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no comparison\.json"):
        write_report(tmp_path)


def test_missing_table_is_refused(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "comparison")
    (folder / "samples_1.parquet").unlink()
    with pytest.raises(ConfigError, match=r"not complete: samples_1\.parquet"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_record_keeps_what_it_does_not_know(folder: Path) -> None:
    record = json.loads((folder / "comparison.json").read_text()) | {"later": {"key": 1}}
    assert ComparisonRecord.model_validate(record).model_dump()["later"] == {"key": 1}
