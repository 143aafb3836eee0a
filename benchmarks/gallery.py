"""Pictures of report pages for the documentation: the runs behind them, their pages in a browser, and parts of these.

Usage: python -m benchmarks.gallery [--runs DIR]

Trains, sweeps, walks forward and draws paths with the commands in `RUNS`, a few minutes on two cores, and writes
`docs/pictures/*.png`. Runs that are there already, in DIR, are not made again. It needs a chromium or chrome, named by
JAXPPO_BROWSER or by a usual name, and `playwright`, of the extra `test`.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
RUNS = {
    "planted": "train --config planted",
    "quickstart": "train --config quickstart",
    "paths": "monte-carlo --run {planted} --paths 1000 --scale-costs 0.5 2",
    "walk-forward": "walk-forward --config quickstart --walk_forward.seeds 2 --training.steps 20000",
    "sweep": "sweep --config sweep",
}
"""Name of a folder -> the command that fills it."""
PARTS = {
    "report": ("planted", None),
    "equity": ("planted", "Equity and drawdown"),
    "results": ("planted", "Results"),
    "luck": ("quickstart", "Could it be luck?"),
    "decides": ("planted", "What decides"),
    "months": ("planted", "Returns by month"),
    "drawdowns": ("planted", "Drawdowns and recovery"),
    "regimes": ("quickstart", "By regime"),
    "monte-carlo": ("paths", None),
    "walk-forward": ("walk-forward", None),
    "sweep": ("sweep", None),
}
"""Picture -> run and heading of the part of its report; None for the top of the page."""
WIDTH, HEIGHT, COLOURS = 1100, 900, 128
"""Pixels of a page, of the top of one, and colours of a picture."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main() -> None:
    """Makes the runs that are missing, and all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=pathlib.Path, help="folder of the runs (default: one that is removed)")
    given = parser.parse_args().runs
    program = next(filter(None, map(shutil.which, [os.environ.get("JAXPPO_BROWSER", ""), *BROWSERS])), None)
    if program is None:
        sys.exit("no chromium or chrome; name one by JAXPPO_BROWSER")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(given or temporary).resolve()
        make_runs(folder)
        PICTURES.mkdir(exist_ok=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            for name, (run, heading) in PARTS.items():
                take(browser, folder / run / "report.html", heading, PICTURES / f"{name}.png")
            browser.close()


def make_runs(folder: pathlib.Path) -> None:
    """Runs each command whose report is missing; its output is the folder of its name."""
    for name, command in RUNS.items():
        if (folder / name / "report.html").exists():
            continue
        words = command.format(**{run: folder / run for run in RUNS}).split()
        subprocess.run([sys.executable, "-m", "jaxppo", *words, "--output", folder / name, "--quiet"], check=True)


def take(browser: Browser, report: pathlib.Path, heading: str | None, picture: pathlib.Path) -> None:
    """A picture of a part of a report, in few colours."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.goto(report.as_uri())
    page.wait_for_timeout(1000)  # figures are drawn
    if heading is None:
        page.screenshot(path=picture)
    else:
        page.locator("section", has=page.locator("h2", has_text=heading)).first.screenshot(path=picture)
    page.close()
    with Image.open(picture) as image:
        image.convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    main()
