"""The command line, from the outside: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import math
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from contextlib import closing
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from lawful.cli import cli
from lawful.record import RELATIONS, Measurement, RecordError, RunWriter, open_run
from lawful.record.folder import DATABASE

COMMANDS = (
    *("run", "test", "show", "report", "compare"),
    *("laws", "experiments", "export", "cite", "symmetries", "predict", "challenge"),
    *("sweep", "watch"),
    *("observe", "inspect"),
)
NEEDED = {"samples": 4096, "effective_samples": 4096, "clusters": 4096, "drift": 0.001}
WIDTHS = {"width_a": 16, "width_b": 16}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The command as the shell runs it, in a process of its own."""
    command = [sys.executable, "-m", "lawful", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]


def document(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of one layer in which H_b ∝ G_b has formed and the rest has not."""
    folder = tmp_path / "digits"
    manifest = {
        "laws": ["rga_b", "rga_a"],
        "layers": [{"name": "fc", "kind": "linear", "d_a": 16, "d_b": 16}],
        "unobserved": [{"name": "norm", "kind": "LayerNorm", "reason": "no map", "parameters": 8}],
        "status": "finished",
        "steps": 100,
    }
    with RunWriter.create(folder, manifest) as writer:
        for step, formed in ((0, 0.10), (100, 0.95)):
            values = {r: (formed if r == "rga_b" else 0.1) for r in RELATIONS}
            nulls = {f"{r}_{null}": 0.1 for r in RELATIONS for null in ("haar", "permutation")}
            rows = [Measurement(step, "fc", q, v, 0.01, 4096) for q, v in values.items()]
            rows += [Measurement(step, "fc", q, v) for q, v in (nulls | NEEDED | WIDTHS).items()]
            rows.append(Measurement(step, "fc", "cross_b", math.nan))
            writer.write(step, rows)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert f"lawful {name}" in result.stdout.split("Example:")[1]


def test_the_commands_are_those_of_the_list() -> None:
    assert set(cli.commands) == set(COMMANDS)


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys, lawful.cli as c; c.cli(['run', '--help'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_verdicts_as_json(run: Path) -> None:
    found = document(call("test", run, "--json"))
    assert set(found) == {"run", "verdicts"}
    assert found["run"] == str(run)
    (formed,) = [v for v in found["verdicts"] if v["law"] == "rga_b"]
    assert list(formed) == [
        "law", "layer", "step", "status", "effect", "interval", "null", "initial", "sentence",
    ]  # fmt: skip
    assert (formed["layer"], formed["step"], formed["status"]) == ("fc", 100, "holds")
    assert formed["interval"][0] < formed["effect"] == 0.95 < formed["interval"][1]


def test_only_the_laws_asked_for(run: Path) -> None:
    verdicts = document(call("test", run, "--law", "gwa_*", "--json"))["verdicts"]
    assert [v["law"] for v in verdicts] == ["gwa_a", "gwa_b"]


def test_verdicts_as_a_table(run: Path) -> None:
    assert "holds" in call("test", run).stdout


def test_an_unknown_law_is_named_with_its_neighbours(run: Path) -> None:
    result = call("test", run, "--law", "rgb_b")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "'rgb_b'" in result.stderr
    assert "rga_b" in result.stderr


def test_show_tells_what_was_not_observed(run: Path) -> None:
    assert "norm" in call("show", run).stdout
    found = document(call("show", run, "--json"))
    assert found["manifest"]["unobserved"][0]["reason"] == "no map"
    assert found["steps"] == [0, 100]
    last = {m["quantity"]: m for m in found["measurements"]}
    assert last["rga_b"]["value"] == 0.95
    assert last["cross_b"]["value"] is None


def test_compare_puts_runs_side_by_side(run: Path) -> None:
    found = document(call("compare", run, run, "--law", "rga_b", "--json"))
    assert [len(r["verdicts"]) for r in found["runs"]] == [1, 1]
    assert "rga_b" in call("compare", run, run).stdout


def test_compare_needs_two_runs(run: Path) -> None:
    result = call("compare", run)
    assert result.exit_code == 2
    assert "two runs" in result.stderr


def test_the_report_is_written_where_asked(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    out = tmp_path / "page.html"
    assert document(call("report", run, "-o", out, "--json"))["file"] == str(out)
    assert out.read_text(encoding="utf-8").startswith("<!")


def test_export_writes_the_whole_table(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert call("export", run, "-o", out).stdout.strip() == str(out)
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "step,layer,quantity,value,stderr,n"
    assert len(lines) > 2 * len(RELATIONS)


def test_a_place_that_cannot_be_written_is_one_sentence(run: Path) -> None:
    result = call("export", run, "-o", run / "manifest.json" / "table.csv")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")


def test_cite_prints_each_entry_once(run: Path) -> None:
    text = call("cite", run).stdout
    assert text.count("@inproceedings{ziyin2025formation,") == 1
    assert document(call("cite", run, "--json"))["bibtex"].strip() == text.strip()


def test_every_law_is_listed() -> None:
    entries = {e["name"]: e for e in document(call("laws", "--json"))["laws"]}
    assert set(RELATIONS) <= set(entries)
    assert entries["rga_b"]["equation"] in "H_b ∝ G_b"
    assert "rga_b" in call("laws").stdout


def test_every_experiment_is_listed_with_its_settings() -> None:
    entries = {e["name"]: e for e in document(call("experiments", "--json"))["experiments"]}
    assert {"canonical-digits", "canonical-decay"} <= set(entries)
    assert "scale" in {s["name"] for s in entries["canonical-digits"]["settings"]}
    assert "canonical-digits" in call("experiments").stdout


@pytest.mark.parametrize("command", ["test", "show", "report", "export", "cite"])
def test_what_is_no_run_ends_with_one_sentence(command: str, tmp_path: Path) -> None:
    result = call(command, tmp_path / "nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_experiment_or_setting_is_named(tmp_path: Path) -> None:
    unknown = call("run", "canonical-digit", "--out", tmp_path / "a")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert "canonical-digits" in unknown.stderr
    setting = call("run", "canonical-digits", "--out", tmp_path / "b", "--set", "widht=3")
    assert setting.exit_code == 2
    assert "'widht'" in setting.stderr
    assert not (tmp_path / "b").exists()


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lawful.cli.making.trained", pressed)
    result = call("run", "canonical-digits", "--out", tmp_path / "my run", "--set", "depth=3")
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr.strip() == (
        "interrupted; resume with lawful run canonical-digits "
        f"--out '{tmp_path}/my run' --seed 0 --set depth=3 --resume"
    )


def test_a_seed_is_one_that_every_library_takes(tmp_path: Path) -> None:
    for seed in (-1, 2**32):
        result = call("run", "canonical-digits", "--out", tmp_path / "a", "--seed", seed)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "'--seed'" in result.stderr


def test_an_error_is_told_once_and_no_line_of_code_with_it(tmp_path: Path) -> None:
    result = call("run", "canonical-digits", "--out", tmp_path / "a", "--set", "batch=5000")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: batch=5000: the data have 1400 samples; use 1 to 1400\n"


def test_a_warning_is_one_sentence(run: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")
        patch.setattr("lawful.laws.test", warned)
        result = call("test", run)
    assert result.exit_code == 0
    assert result.stderr == "Warning: law 'rga_c' is unknown\n"


def warned(*_: object) -> list[object]:
    warnings.warn("law 'rga_c' is unknown", stacklevel=1)
    warnings.warn("overflow", RuntimeWarning, stacklevel=1)
    return []


def test_a_folder_of_runs_names_one(run: Path) -> None:
    result = call("test", run.parent)
    assert result.exit_code == 2
    assert result.stderr == f"Error: {run.parent} is not a run but holds 1: name one, {run}\n"


@pytest.mark.parametrize("command", ["test", "show", "report", "cite", "export"])
def test_a_damaged_record_is_one_sentence(command: str, run: Path) -> None:
    with closing(sqlite3.connect(run / DATABASE)) as database, database:
        database.execute("UPDATE measurement SET value = 'abc'")
    result = call(command, run)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert "measurements.sqlite is damaged" in result.stderr
    assert ".recover" in result.stderr


def test_a_report_goes_into_a_folder_too(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    assert call("report", run, "-o", tmp_path).stdout.strip() == str(tmp_path / "report.html")


def test_training_that_breaks_down_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from lawful.lab.experiment import Experiment
    from lawful.lab.training import NonFiniteLoss

    def diverge(*_: object, **__: object) -> None:
        raise NonFiniteLoss("the loss is nan at step 3")

    monkeypatch.setattr(Experiment, "run", diverge)
    result = call("run", "canonical-digits")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: the loss is nan at step 3\n"


def test_an_interrupted_run_goes_on_as_it_says(tmp_path: Path) -> None:
    """Ctrl-C once, in a process of its own; then the very command that it printed."""
    out = tmp_path / "my digits"
    arguments = ["run", "canonical-digits", "--out", str(out), "--set", "steps=5000"]
    first = subprocess.Popen(
        [sys.executable, "-m", "lawful", *arguments], stderr=subprocess.PIPE, text=True
    )
    while first.poll() is None and not measured(out):
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 130
    assert open_run(out).manifest["status"] == "interrupted"
    lawful, *again = shlex.split(said.splitlines()[-1].partition("resume with ")[2])
    assert lawful == "lawful"
    second = process(*again, "--json")
    assert json.loads(second.stdout)["runs"] == [str(out)]
    assert open_run(out).manifest["status"] == "finished"
    assert open_run(out).steps[-1] == 5000


def measured(run: Path) -> bool:
    """Whether training has begun: a step after initialisation is on record."""
    try:
        return max(open_run(run).steps, default=0) > 0
    except RecordError:
        return False


def test_a_reader_that_leaves_is_not_an_error() -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "lawful", "laws"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None
    command.stdout.close()
    assert command.stderr is not None
    with command.stderr as stderr:
        assert stderr.read() == b""
    command.wait(timeout=120)


def test_bad_usage_has_exit_code_two() -> None:
    wrong = process("tets")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "No such command" in wrong.stderr


def test_every_parameter_has_a_help_text() -> None:
    for command in cli.commands.values():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name not in ("seed", "kind"):
                assert parameter.help, (command.name, parameter.name)


BUILD = """
import torch

def build():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    return net, (torch.randn(32, 4), torch.arange(32) % 3), torch.nn.functional.cross_entropy

def nothing():
    return None
"""


def test_symmetries_of_a_model_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_model_of_mine.py").write_text(BUILD)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["symmetries", "a_model_of_mine:build", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["symmetries"]
    assert {s["kind"] for s in found} >= {"rescaling", "permutation", "shift"}
    assert all(s["violation"] < 1e-8 for s in found if s["certified"])
    plain = CliRunner().invoke(cli, ["symmetries", "a_model_of_mine:build"])
    assert "rescaling" in plain.stdout


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("a_model", "is not MODULE:FUNCTION"),
        ("no_such_module:build", "cannot load no_such_module:build"),
        ("a_model_of_mine:missing", "cannot load a_model_of_mine:missing"),
        ("a_model_of_mine:nothing", "must return (model, example_input, loss)"),
    ],
)
def test_a_factory_that_cannot_be_used_is_refused(
    factory: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_model_of_mine.py").write_text(BUILD)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["symmetries", factory])
    assert result.exit_code == 2
    assert sentence in result.output


PREDICT = ("--lr", "0.1", "--batch-size", "8")


def test_forecasts_of_a_model_of_the_lab() -> None:
    arguments = ("predict", "mlp-linear:32-6-8", "--data", "teacher", *PREDICT)
    found = document(call(*arguments, "--weight-decay", "0.1", "--samples", "64", "--json"))
    assert set(found) == {"model", "data", "settings", "forecasts"}
    assert found["settings"]["weight_decay"] == 0.1
    first = found["forecasts"][0]
    assert set(first) == {
        "theory", "name", "where", "value", "unit", "sentence", "assumption", "applies",
    }  # fmt: skip
    assert (first["theory"], first["name"]) == ("linear network", "rank")
    plain = call(*arguments, "--steps", "100", "--samples", "64")
    assert plain.exit_code == 0, plain.output
    assert "Rests on:" in plain.stdout


def test_forecasts_of_a_text_model_and_of_adam() -> None:
    arguments = ("predict", "mlp:64-8-10", "--data", "digits", *PREDICT, "--samples", "32")
    found = document(call(*arguments, "--optimizer", "adamw", "--json"))
    assert {f["applies"] for f in found["forecasts"]} == {"no"}
    assert {f["value"] for f in found["forecasts"]} == {None}


def test_forecasts_of_a_model_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its own example, and on data of another shape with as many numbers a sample."""
    import numpy as np

    (tmp_path / "a_model_of_mine.py").write_text(BUILD)
    x = np.random.default_rng(0).normal(size=(40, 2, 2))
    np.savez(tmp_path / "mine.npz", x=x, y=np.arange(40) % 3)
    monkeypatch.chdir(tmp_path)
    for more in ((), ("--data", "mine.npz")):
        result = call("predict", "a_model_of_mine:build", *PREDICT, *more, "--json")
        where = {f["where"] for f in document(result)["forecasts"]}
        assert "rescaling of 0, 2" in where


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("mlp:64-10",), "of the lab and needs --data"),
        (("mlp:64-10", "--data", "digit"), "unknown data set 'digit'"),
        (("mlp:64-9", "--data", "digits"), "write mlp:64-10"),
        (("vgg", "--data", "digits"), "unknown model 'vgg'"),
        (("no_such_module:build",), "cannot load no_such_module:build"),
        (("mlp:64-10", "--data", "digits", "--momentum", "2"), "momentum=2.0"),
        (("mlp:64-10", "--data", "digits", "--lr", "0"), "lr=0.0"),
        (("mlp:64-10", "--data", "digits", "--optimizer", "lion"), "lion"),
    ],
)
def test_a_forecast_that_cannot_be_made_is_refused(
    arguments: tuple[str, ...], sentence: str
) -> None:
    result = call("predict", *PREDICT, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
