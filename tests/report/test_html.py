"""The page: escaped, self-contained, whole when the run is not; and alive in a browser."""

from __future__ import annotations

import builtins
import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic_run import NASTY, synthetic_run, verdicts

from lawful.record import RecordError, Run
from lawful.report import write_report
from lawful.report.html import render


def own_part(page: str) -> str:
    """The page without plotly.js, whose source mentions addresses it never loads here."""
    start = page.index("<script>", page.index('id="data"'))
    return page[:start] + page[page.index("</script>", start) :]


def embedded(page: str) -> dict:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert text is not None
    return json.loads(text[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("html") / "run"
    return synthetic_run(folder, ["fc1", NASTY], [0, 1, 10, 100, 1000])


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return render(run, verdicts(["fc1", NASTY]))


def test_the_file_is_written_whole_and_its_folder_made(run: Run, tmp_path: Path) -> None:
    out = write_report(run, verdicts(["fc1"]), tmp_path / "new" / "report.html")
    assert out.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]


def test_a_layer_called_script_is_text_everywhere(page: str) -> None:
    assert NASTY not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert embedded(page)["layers"][1]["name"] == NASTY
    assert len(re.findall(r"<script", own_part(page))) == 2  # data, own code


@pytest.mark.parametrize(
    "field", [{"experiment": {"name": NASTY, "settings": {NASTY: NASTY}}}, {"status": NASTY}]
)
def test_a_hostile_manifest_is_text(tmp_path: Path, field: dict) -> None:
    hostile = [{"name": NASTY, "kind": NASTY, "reason": NASTY, "parameters": 1}]
    run = synthetic_run(tmp_path / "r", ["fc"], [0], unobserved=hostile, **field)
    assert NASTY not in render(run, [])


def test_a_module_of_which_only_the_name_is_known_has_its_row(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "r", ["fc"], [0], unobserved=[{"name": "norm"}])
    assert "no reason recorded" in render(run, [])


def test_a_page_that_cannot_be_written_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"cannot write .*page\.html: .*file is a file"):
        write_report(run, [], tmp_path / "file" / "page.html")


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    own = own_part(page)
    assert not re.search(r"""\b(?:src|srcset|action|poster)\s*=""", own)
    assert not re.search(r"<(?:link|iframe|object|embed|img)\b|@import|url\(", own)
    assert not re.search(r"""href\s*=\s*["'](?!#)""", own)
    assert "default-src 'none'" in own


def test_sections_come_in_order_and_verdicts_first(page: str) -> None:
    places = [page.index(f'<section id="{name}">') for name in
              ("verdicts", "coverage", "layers", "run", "laws")]  # fmt: skip
    assert places == sorted(places)


def test_every_verdict_is_a_row_with_status_and_sentence(page: str) -> None:
    rows = re.findall(r'<li class="(\w+)" data-status="\1"', page)
    assert len(rows) == 16
    assert set(rows) <= {"holds", "violated", "undetermined", "outside"}
    assert "fc1: crh follows the relation, above every null." in page


def test_the_coverage_report_names_what_is_unseen_and_why(page: str) -> None:
    part = page[page.index('id="coverage"') : page.index('id="layers"')]
    assert "norm" in part
    assert "not a linear map" in part


def test_sources_of_the_laws_are_given(page: str) -> None:
    part = page[page.index('<section id="laws">') :]
    assert "arXiv 2410.03006" in part
    assert "@" in part  # BibTeX


@pytest.mark.parametrize(
    ("layers", "steps", "options"),
    [
        ([], [], {}),
        (["fc"], [], {}),
        (["fc"], [0], {}),
        (["fc"], [7], {"arrays": False, "exponents": False}),
        (["fc"], [0, 5, 9], {"holes": True}),
        (["fc"], [0, 5], {"optimizer": None, "experiment": ..., "environment": {}}),
    ],
)
def test_missing_things_leave_a_page(
    tmp_path: Path, layers: list[str], steps: list[int], options: dict
) -> None:
    run = synthetic_run(tmp_path / "r", layers, steps, **options)
    page = render(run, [])
    assert "There is no verdict to show" in page
    assert "NaN" not in json.dumps(embedded(page))
    assert ("There is no layer to draw" in page) == (not layers)


def test_without_the_extra_the_error_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, *_: object) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"pip install 'lawful\[report\]'"):
        render(run, [])


def test_the_terminal_does_not_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def guarded(name: str, *rest: object) -> object:
        assert not name.startswith(("plotly", "jinja2"))
        return original(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", guarded)
    importlib.reload(importlib.import_module("lawful.report.terminal"))


def dom(page: Path, profile: Path, width: int, fragment: str = "") -> str:
    """The document after its scripts ran, in a frame `width` pixels wide."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine: install chromium to run the browser test")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}", f"--window-size={width},900",
        "--virtual-time-budget=20000", "--dump-dom", f"{page.as_uri()}{fragment}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout


FIGURES = ["rga_a", "gwa_b", "plane", "view-0", "view-5", "spectra", "powers", "participation",
           "ranks", "compactness", "any", "run-loss", "run-accuracy"]  # fmt: skip


@pytest.mark.browser
def test_every_figure_is_drawn_in_a_browser(run: Run, tmp_path: Path) -> None:
    page = write_report(run, verdicts(["fc1", NASTY]), tmp_path / "report.html")
    drawn = dom(page, tmp_path / "profile", 1366, "#dark")
    head = re.search(r"<html[^>]*>", drawn)
    assert head is not None
    assert "data-error" not in head[0]
    assert 'data-theme="dark"' in head[0]
    assert "data-drawn" in head[0]
    for name in FIGURES:
        place = re.search(rf'<div class="([^"]*)"[^>]*\bid="{name}"', drawn)
        assert place is not None
        assert "js-plotly-plot" in place[1], f"{name} holds no figure"


# What a reader does: every button once, the slider to its first step, the second layer.
CLICKS = """<script>
setTimeout(() => {
  for (const id of ["next", "previous", "next", "more", "theme"]) element(id).click();
  all("#variant button:not(:disabled)").forEach((b) => b.click());
  element("frame").value = "0";
  element("frame").dispatchEvent(new Event("input"));
  element("quantity").selectedIndex = 0;
  element("quantity").dispatchEvent(new Event("change"));
  document.querySelector(".chip").click();
  document.querySelector(".glance button").click();
  document.documentElement.dataset.width = document.documentElement.scrollWidth - innerWidth;
}, 3000);
</script></body>"""


@pytest.mark.browser
def test_every_control_answers_and_no_page_is_wider_than_its_window(
    run: Run, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(run, verdicts(["fc1", NASTY])).replace("</body>", CLICKS))
    drawn = dom(page, tmp_path / "profile", 500)
    head = re.search(r"<html[^>]*>", drawn)
    assert head is not None
    assert "data-error" not in head[0]
    assert 'data-theme="dark"' in head[0]
    width = re.search(r'data-width="(-?\d+)"', head[0])
    assert width is not None
    assert int(width[1]) <= 0
    assert re.search(r'id="frame-step">0<', drawn)
    assert re.search(r'id="shown"[^>]*>1 of 16 shown<', drawn)


@pytest.mark.browser
def test_a_run_with_next_to_nothing_gives_sentences_not_empty_boxes(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "r", ["fc"], [0], arrays=False, exponents=False)
    page = write_report(run, [], tmp_path / "report.html")
    drawn = dom(page, tmp_path / "profile", 390)
    assert "data-error" not in drawn[:400]
    assert "No spectrum was kept for this layer." in drawn
    assert "No pair of exponents was measured in this layer" in drawn
    for place in re.findall(r'<div class="plot[^"]*"[^>]*></div>', drawn):
        assert "view-" in place  # the heat maps are hidden as a block
