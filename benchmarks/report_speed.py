"""How long a report takes to write and to open, and how large it is.

    python benchmarks/report_speed.py COMPARISON --samples 2500

COMPARISON is a folder of materium-rl compare. Its rows are repeated until every policy has --samples of
them, each repetition as crystals of their own, so that the table of discoveries is as full as it can be. The
page is opened from disk in headless Chromium (needs it, its driver and selenium), each time with an empty
profile: until the load event, and until the 3D view has been drawn. Best of --repeats, since a busy machine
only adds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from chromium import set_screen, start_chromium

from materium_rl.evaluation.report.page import write_report
from materium_rl.runs import COMPARISON

LOADED = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
SHOW = "document.getElementById('structure').scrollIntoView()"
IS_DRAWN = "return document.querySelector('#viewer canvas') !== null"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--samples", type=int, default=2500)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = enlarge(arguments.comparison, Path(scratch) / "comparison", arguments.samples)
        start, wall = time.process_time(), time.monotonic()
        page = write_report(folder)
        processor, wall = time.process_time() - start, time.monotonic() - wall
        size = page.stat().st_size / 1e6
        print(f"written in {processor:.1f} s of the processor, {wall:.1f} s; {size:.2f} MB")
        found = [open_page(page, Path(scratch) / f"profile{i}") for i in range(arguments.repeats)]
    loaded, processor, drawn = (min(times) for times in zip(*found, strict=True))
    print(
        f"loaded after {loaded:.2f} s, of them {processor:.2f} s of the processor in the page's main thread"
    )
    print(f"3D view drawn after another {drawn:.2f} s")


def enlarge(source: Path, target: Path, samples: int) -> Path:
    """Copy of a comparison with that many samples of every policy."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("report.html", "*.png"))
    record = json.loads((target / COMPARISON).read_text(encoding="utf-8"))
    for policy in record["policies"]:
        frame = pd.read_parquet(target / policy["samples"])
        copies = -(-samples // len(frame))
        span = int(frame["group"].max()) + 1
        frames = [
            frame.assign(group=frame["group"].where(frame["group"] < 0, frame["group"] + k * span))
            for k in range(copies)
        ]
        pd.concat(frames, ignore_index=True).head(samples).to_parquet(target / policy["samples"], index=False)
        policy["requested"] = samples
    (target / COMPARISON).write_text(json.dumps(record), encoding="utf-8")
    return target


def open_page(page: Path, profile: Path) -> tuple[float, float, float]:
    """Seconds to the load event, of the main thread until then, and from a look at the 3D view to it."""
    browser = start_chromium(profile)
    try:
        set_screen(browser, 1280, 900)
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        browser.get(page.as_uri())
        metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        processor = {metric["name"]: metric["value"] for metric in metrics}["TaskDuration"]
        loaded = browser.execute_script(LOADED) / 1000
        start = time.monotonic()
        browser.execute_script(SHOW)
        while not browser.execute_script(IS_DRAWN):
            time.sleep(0.02)
        return loaded, processor, time.monotonic() - start
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
