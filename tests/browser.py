"""A page in a real browser, and everything that is wrong with it: errors, requests, figures not drawn, too wide."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Sequence

import pytest
from playwright.sync_api import Browser, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = (1280, 390)
"""Pixels: a desktop, a telephone."""
TIMEOUT = 120_000.0

# What plotly draws: a layer of each kind in each subplot, a group for each trace, and the marks in it.
_LOOK = """async () => {
  const folded = [...document.querySelectorAll('details')], plots = [...document.querySelectorAll('.js-plotly-plot')];
  folded.forEach(part => part.open = true);
  if (folded.length) await new Promise(done => setTimeout(done, 400));
  await Promise.all(plots.flatMap(plot => plot._promises || []));
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const size = mark => { const box = mark.getBoundingClientRect(); return Math.max(box.width, box.height); };
  const marks = '.js-line, .js-fill, .point, .points path, image';
  const groups = '.scatterlayer .trace, .barlayer .trace, .heatmaplayer .hm';
  const drawn = part =>
    [...part.querySelectorAll(groups)].filter(group => [...group.querySelectorAll(marks)].some(mark => size(mark) > 0));
  const repeated = plot => {
    const seen = new Set(), twice = [];
    for (const tick of plot.querySelectorAll('g[class$="tick"]')) {
      const label = tick.getAttribute('class') + ' ' + tick.textContent;
      if (tick.textContent && seen.has(label)) twice.push(label);
      seen.add(label);
    }
    return twice;
  };
  return {
    wide: document.documentElement.scrollWidth - window.innerWidth,
    figures: [...document.querySelectorAll('.figure')].map(figure => {
      const plot = figure.querySelector('.plotly-graph-div'), image = figure.querySelector('svg.main-svg');
      const box = image ? image.getBoundingClientRect() : {width: 0, height: 0, right: 0};
      return {
        name: plot ? plot.id : '', width: box.width, height: box.height,
        repeated: plot ? repeated(plot) : [],
        beyond: box.right - figure.getBoundingClientRect().right,
        drawn: drawn(figure).length,
        empty: [...figure.querySelectorAll('.cartesianlayer > .subplot')].filter(part => !drawn(part).length).length,
      };
    }),
  };
}"""


def executable() -> str:
    """The browser of this machine: JAXPPO_BROWSER, or what has a usual name; without one, skips the test.

    Raises:
      FileNotFoundError: JAXPPO_BROWSER is set and there is none.
    """
    given = os.environ.get("JAXPPO_BROWSER")
    found = next(filter(None, map(shutil.which, [given] if given else NAMES)), None)
    if found is None and given:
        raise FileNotFoundError(f"JAXPPO_BROWSER is {given!r}; there is no such program")
    if found is None:
        pytest.skip("no chromium or chrome on this machine; install one, or name it by JAXPPO_BROWSER")
    return found


def faults(path: pathlib.Path, widths: Sequence[int] = WIDTHS) -> list[str]:
    """What is wrong with a page at some widths; empty for one without a fault, which has a figure at least.

    The browser is closed again before anything else runs: its driver leaves an event loop running, which would be in
    the way of whatever wants its own.
    """
    program, found = executable(), []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS), timeout=TIMEOUT)
        for width in widths:
            found += [f"{path.name} at {width}: {fault}" for fault in _at_width(browser, path, width)]
        browser.close()
    return found


def _at_width(browser: Browser, path: pathlib.Path, width: int) -> list[str]:
    """See `faults`."""
    found: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("requestfailed", lambda request: found.append(f"{request.url} failed"))
    page.on("request", lambda request: found.append(f"asks for {request.url}") if _foreign(request) else None)
    page.goto(path.resolve().as_uri(), timeout=TIMEOUT)
    looked = page.evaluate(_LOOK)
    page.close()
    found += [] if looked["figures"] else ["has no figure"]
    found += [f"is {looked['wide']:g} pixels too wide"] if looked["wide"] > 0 else []
    return found + [f"{figure['name']}: {fault}" for figure in looked["figures"] for fault in _of_figure(figure)]


def _foreign(request: Request) -> bool:
    """Whether a page asks for anything but itself and what it contains."""
    return not request.url.startswith(("data:", "blob:")) and not request.is_navigation_request()


def _of_figure(figure: dict) -> list[str]:
    """What is wrong with a figure."""
    found = []
    if min(figure["width"], figure["height"]) < 50:
        found.append(f"has {figure['width']:g} x {figure['height']:g} pixels")
    if not figure["drawn"]:
        found.append("nothing is drawn")
    if figure["empty"]:
        found.append(f"{figure['empty']} of its panels are empty")
    found += [f"two ticks are labelled {label}" for label in figure["repeated"]]
    if figure["beyond"] > 1:
        found.append(f"reaches {figure['beyond']:g} pixels beyond its place")
    return found
