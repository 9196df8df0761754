"""How large the page of ``snn2chip report`` is, and how long Chromium takes to show it.

    python benchmarks/report.py [report.html ...] [--repeats 5] [--json]

Without files it makes that of ``snn2chip demo``. A load ends with the browser's load event, layout and first paint
included, in a fresh context each time; the median is shown. Chromium and playwright are needed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from snn2chip import demo

WIDTHS = (390, 1440)
PAINTED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def load(browser: Browser, page: Path, width: int, repeats: int) -> float:
    """Seconds until ``page`` is painted, the median of ``repeats``."""
    seconds = []
    for _ in range(repeats):
        context = browser.new_context(viewport={"width": width, "height": 900})
        view = context.new_page()
        began = time.perf_counter()
        view.goto(page.resolve().as_uri(), wait_until="load")
        view.evaluate(PAINTED)
        seconds.append(time.perf_counter() - began)
        context.close()
    return statistics.median(seconds)


def measure(pages: list[Path], repeats: int) -> list[dict[str, Any]]:
    """Size and load time of each page."""
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        sys.exit("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        rows = [
            {
                "page": page.name,
                "bytes": page.stat().st_size,
                "seconds": {width: load(browser, page, width, repeats) for width in WIDTHS},
            }
            for page in pages
        ]
        browser.close()
    return rows


def main() -> None:
    """Measure the pages that are given, or the demo's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="*")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pages = arguments.pages or [Path(demo.run(Path(folder), samples=4).files["report"])]
        rows = measure(pages, arguments.repeats)
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        times = ", ".join(f"{1000 * seconds:.0f} ms at {width} px" for width, seconds in row["seconds"].items())
        print(f"{row['page']}: {row['bytes'] / 1024:.0f} KiB, {times}")


if __name__ == "__main__":
    main()
