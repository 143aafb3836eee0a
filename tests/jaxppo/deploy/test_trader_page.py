"""The page of a trader: in a real browser, over its port, with hostile names."""

import json
import urllib.error
import urllib.request

import pytest
from browser import ARGUMENTS, TIMEOUT, WIDTHS, executable
from cheap_policy import CheapPolicy, records
from playwright.sync_api import sync_playwright

from jaxppo.deploy.brokers import SimulatedBroker
from jaxppo.deploy.trader import KILL, Trader, follow
from jaxppo.deploy.trading.feeds import BadRecord
from jaxppo.deploy.trading.page import PAGE, REFRESH
from jaxppo.deploy.trading.serve import serve_page
from jaxppo.errors import ConfigError

HOSTILE = "<script>document.title='broken'</script>"
_LOOK = """() => {
  const line = document.querySelector('svg.equity polyline').getBoundingClientRect();
  const rows = name => [...document.querySelectorAll('section')].find(s => s.querySelector('h2').textContent === name)
    .querySelectorAll('tbody tr').length;
  return {
    wide: document.documentElement.scrollWidth - window.innerWidth, line: [line.width, line.height],
    positions: rows('Positions'), decisions: rows('Last decisions'), orders: rows('Orders'), limits: rows('Limits'),
    events: rows('Out of order'), title: document.title, text: document.body.textContent,
  };
}"""


@pytest.fixture
def folder(tmp_path):
    broker = SimulatedBroker(tmp_path / "paper.jsonl")
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True)
    list(follow(trader, [*records(40), BadRecord(HOSTILE)]))
    trader.close()
    broker.close()
    return tmp_path


@pytest.mark.slow
def test_the_page_is_drawn_in_a_browser_and_loads_itself_again(folder):
    program, faults = executable(), []
    server = serve_page(folder / PAGE, 0)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS), timeout=TIMEOUT)
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("requestfailed", lambda request: faults.append(f"{request.url} failed"))
            page.goto(f"http://127.0.0.1:{server.server_port}/", timeout=TIMEOUT)
            looked = page.evaluate(_LOOK)
            assert looked["wide"] <= 0
            assert min(looked["line"]) > 20
            assert (looked["positions"], looked["decisions"], looked["events"]) == (2, 20, 1)
            assert looked["orders"] >= 20
            assert looked["limits"] >= 3
            assert looked["title"] == "cheap: paper"
            assert HOSTILE in looked["text"]
            page.close()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/", timeout=TIMEOUT)
        (folder / PAGE).write_text("<title>again</title>")
        page.wait_for_function("document.title === 'again'", timeout=(REFRESH + 60) * 1000)
        browser.close()
    server.shutdown()
    assert faults == []


def test_only_the_page_is_served(folder):
    server = serve_page(folder / PAGE, 0)
    address = f"http://127.0.0.1:{server.server_port}/"
    assert b"<svg" in urllib.request.urlopen(address).read()
    for path in ("orders.jsonl", "../secret", "%2e%2e/orders.jsonl"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address + path)
    with pytest.raises(ConfigError, match="port cannot be used"):
        serve_page(folder / PAGE, server.server_port)
    server.shutdown()


def test_the_page_tells_of_a_dry_run_and_of_the_kill_switch(tmp_path):
    trader = Trader(CheapPolicy(), tmp_path)
    (tmp_path / KILL).touch()
    list(follow(trader, records(1)))
    trader.close()
    text = (tmp_path / PAGE).read_text()
    assert "Dry run" in text
    assert "kill switch is set" in text
    assert json.loads((tmp_path / "orders.jsonl").read_text().splitlines()[1])["kind"] == "bar"
