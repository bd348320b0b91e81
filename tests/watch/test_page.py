"""The page in a browser, against a run that is being written."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, found
from synthetic_run import NASTY, manifest, synthetic_run

from lawful.record import RELATIONS, Measurement, RunWriter
from lawful.watch import Follower, address, serve
from lawful.watch.server import Server

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(found() is None, reason="no Chromium on this machine"),
]


class Training(threading.Thread):
    """A run of two layers that gains a step five times a second."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.writer = RunWriter.create(
            path, manifest(["fc1", NASTY], status="running", laws=["rga_b"])
        )
        self.stop, self.step = threading.Event(), 0

    def run(self) -> None:
        while not self.stop.wait(0.2):
            rows = [Measurement(self.step, "", "loss", 1 / (1 + self.step), math.nan, 1)]
            rows += [Measurement(self.step, layer, r, 0.5, 0.01, 99)
                     for layer in ("fc1", NASTY) for r in RELATIONS]  # fmt: skip
            self.writer.write(self.step, rows)
            self.step += 1


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    synthetic_run(tmp_path / "runs" / "second", ["fc1"], [0, 1, 10])
    training = Training(tmp_path / "runs" / "first")
    training.start()
    yield tmp_path / "runs"
    training.stop.set()
    training.join()
    training.writer.close()


def start(follower: Follower, port: int = 0, host: str = "127.0.0.1") -> Server:
    server = serve(follower, host, port, None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def fine(browser: Browser) -> None:
    assert browser.ask("document.documentElement.dataset.error") is None
    assert browser.ask("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize(("width", "dark"), [(1366, False), (390, True)])
def test_it_follows_a_run_draws_it_and_comes_back(
    runs: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    shown = "+(document.documentElement.dataset.shown || -1)"
    with Follower([runs]) as follower, Browser(tmp_path / "p", width=width, dark=dark) as browser:
        server = start(follower)
        browser.open(address(server))
        browser.wait_for(f"{shown} > 3")
        assert browser.ask("document.querySelectorAll('#runs li').length") == 2
        browser.ask("document.getElementById('plane').scrollIntoView()")
        browser.wait_for("document.querySelector('#plane.js-plotly-plot')")
        browser.wait_for("document.querySelectorAll('#glance button').length === 2")
        # A layer called <script> is text, and can be looked at like any other.
        assert browser.ask("document.querySelectorAll('#glance tbody th')[1].textContent") == NASTY
        browser.ask("document.getElementById('next').click()")
        browser.wait_for("document.querySelector('#verdict-list .claim')")
        assert browser.ask("document.querySelector('#verdict-list sub').textContent") == "b"
        # A formula is set from text: what looks like markup in it stays text.
        browser.ask("setFormula(document.getElementById('meaning'), '<b>H_a</b> fc_1 x^2 ‖W‖_F²')")
        assert browser.ask("document.getElementById('meaning').innerHTML") == (
            "&lt;b&gt;H<sub>a</sub>&lt;/b&gt; fc_1 x<sup>2</sup> ‖W‖<sub>F</sub>²"
        )
        assert browser.ask("document.querySelectorAll('body script').length") == 0
        fine(browser)

        port = server.server_address[1]
        server.shutdown()
        server.server_close()
        browser.wait_for("document.querySelector('#state.away')")
        before = browser.ask(shown)
        server = start(follower, port)
        browser.wait_for("!document.querySelector('#state.away')")
        browser.wait_for(f"{shown} > {before}")
        browser.ask("document.querySelectorAll('#runs button')[1].click()")
        browser.wait_for("document.getElementById('facts').textContent.includes('finished')")
        fine(browser)
        server.shutdown()
        server.server_close()


def test_without_the_token_nothing_is_shown(runs: Path, tmp_path: Path) -> None:
    with Follower([runs]) as follower, Browser(tmp_path / "p") as browser:
        server = start(follower, host="0.0.0.0")
        page = f"http://127.0.0.1:{server.server_address[1]}/"
        browser.open(page)
        browser.wait_for("!document.getElementById('door').hidden")
        assert browser.ask("document.querySelectorAll('#runs li').length") == 0
        browser.ask(f"document.getElementById('token').value = '{server.token}'")
        browser.ask("document.querySelector('#door button').click()")
        browser.wait_for("document.querySelectorAll('#runs li').length === 2")
        browser.wait_for("document.getElementById('door').hidden")
        assert server.token not in browser.ask("location.href")
        time.sleep(0.5)
        fine(browser)
        server.shutdown()
        server.server_close()
