"""The door for scripts: the script as it was, and the same numbers as from inside its code."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from torch import nn

from lawful import Run, log_spaced, open_run
from lawful.cli import cli
from lawful.script import Wish, held, holder, interpreter, loss_form, schedule_from, trained_by

SCRIPTS = Path(__file__).parent / "scripts"

# How a person would open the door in the code: after which line, and saying what.
IN_CODE = {
    "plain_loop": ("optimizer = torch.optim.SGD", "optimizer=optimizer"),
    "grad_scaler": ("scaler = torch.amp", "optimizer=optimizer, scaler=scaler"),
    "accumulation": ("    optimizer = torch", "optimizer=optimizer, accumulation=ACCUMULATION"),
    "transformers_trainer": ("model = GPT2LMHeadModel", "accumulation=2"),
    "lightning_module": ("model = Classifier", "accumulation=2"),
}
LIBRARY = {"transformers_trainer": "transformers", "lightning_module": "lightning"}


def process(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    # Whatever folder this interpreter lies in, `python` means this one.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )


def observed(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return process("-m", "lawful", "observe", *words, cwd=cwd)


def with_the_door_inside(name: str, folder: Path) -> Path:
    """The script with one line more."""
    mark, arguments = IN_CODE[name]
    lines: list[str] = []
    for line in (SCRIPTS / f"{name}.py").read_text().splitlines():
        lines.append(line)
        if line.startswith(mark):
            space = line[: len(line) - len(line.lstrip())]
            door = f"lawful.observe(model, 'inside', {arguments}, schedule=lawful.every(2))"
            lines.append(f"{space}import atexit, lawful; watch = {door}.__enter__()")
            lines.append(f"{space}atexit.register(watch.close)")
    (folder / f"{name}.py").write_text("\n".join(lines))
    return folder / f"{name}.py"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command in this very process, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", [*sys.path])
    return lambda *words: CliRunner().invoke(cli, ["observe", *map(str, words)])


def numbers(run: Run) -> dict[tuple[int, str, str], float]:
    """What was measured, but for the time it took."""
    table = run.table()
    table = table[table["quantity"] != "overhead"]
    return dict(
        zip(
            zip(table["step"], table["layer"], table["quantity"], strict=True),
            table["value"],
            strict=True,
        )
    )


# Each starts three processes, and each process imports torch.
FAST = ("plain_loop",)
NAMES = [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in IN_CODE]


@pytest.mark.parametrize("name", NAMES)
def test_a_script_runs_as_it_was_and_is_measured_as_from_inside(name: str, tmp_path: Path) -> None:
    if name in LIBRARY:
        pytest.importorskip(LIBRARY[name], reason=f"the script needs {LIBRARY[name]}")
    script = SCRIPTS / f"{name}.py"
    plain = process(script, cwd=tmp_path)
    words = ("--out", "outside", "--schedule", "every:2", "--", "python", script)
    watched = observed(*words, cwd=tmp_path)
    assert (watched.returncode, watched.stdout) == (plain.returncode, plain.stdout), watched.stderr
    assert plain.stdout.count("0x") + plain.stdout.count("\n") > 6
    ours = [line for line in watched.stderr.splitlines() if line.startswith("lawful: ")]
    assert len(ours) == 2, ours
    inside = process(with_the_door_inside(name, tmp_path), cwd=tmp_path)
    assert (inside.returncode, inside.stdout) == (plain.returncode, plain.stdout), inside.stderr
    found, expected = (open_run(tmp_path / folder) for folder in ("outside", "inside"))
    assert found.steps[0] == 0
    assert found.manifest["optimizer"] == expected.manifest["optimizer"]
    assert found.layers == expected.layers
    ours_, theirs = numbers(found), numbers(expected)
    assert ours_.keys() == theirs.keys()
    assert len(ours_) > 100
    assert [k for k in ours_ if ours_[k] != theirs[k] and ours_[k] == ours_[k]] == []


def test_an_error_of_the_script_is_its_own(tmp_path: Path) -> None:
    script = SCRIPTS / "plain_loop.py"
    plain = process(script, "--fail", cwd=tmp_path)
    watched = observed("--quiet", script, "--fail", cwd=tmp_path)
    assert (watched.returncode, watched.stdout) == (1, plain.stdout)
    assert watched.stderr == plain.stderr
    assert open_run(tmp_path / "runs" / "plain_loop").manifest["status"] == "failed"


def test_the_collector_is_on_while_the_script_runs(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import gc; print(gc.isenabled())")
    assert observed("--quiet", "train.py", cwd=tmp_path).stdout == "True\n"


def test_a_script_that_is_a_link_finds_its_modules(tmp_path: Path, here) -> None:  # type: ignore[no-untyped-def]
    home = tmp_path / "home"
    home.mkdir()
    (home / "beside_it.py").write_text("")
    (home / "train.py").write_text("import beside_it; print(__file__)")
    (tmp_path / "link.py").symlink_to(home / "train.py")
    done = here("--", "link.py")
    assert done.exit_code == 0, done.output
    assert done.stdout == process("link.py", cwd=tmp_path).stdout


def test_the_module_door_and_a_sum(tmp_path: Path) -> None:
    script = SCRIPTS / "plain_loop.py"
    words = ("-m", "lawful.observe", "--out", "run", "--quiet", script, "--sum", "--steps", "3")
    found = process(*words, cwd=tmp_path)
    assert found.returncode == 3
    assert found.stderr == "done\n"
    assert open_run(tmp_path / "run").manifest["reduction"] == "sum"


@pytest.mark.slow
def test_flags_of_python_ask_for_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "import sys; sys.exit(f'{sys.argv[1:]} {sys.dont_write_bytecode}')"
    )
    found = observed("--quiet", "--", "python", "-B", "-m", "odd", "--out", "x", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (1, "['--out', 'x'] True\n")


TWO = """
import torch
from torch import nn
torch.manual_seed(0)
G, D = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
{optimizers}
for step in range(3):
    x = torch.randn(8, 4)
    loss = D(G(x)).mean()
    loss.backward()
    {steps}
"""


def test_of_several_models_one_is_taken_and_said(
    tmp_path: Path, here: Callable[..., Result]
) -> None:
    both = "o = torch.optim.SGD([*G.parameters(), *D.parameters()], lr=0.1)"
    (tmp_path / "one.py").write_text(TWO.format(optimizers=both, steps="o.step()"))
    found = here("--out", "one", "one.py")
    assert "observing Linear" in found.stderr
    assert "19 parameters outside it" in found.stderr
    assert open_run(tmp_path / "one").manifest["optimizer"]["class"] == "SGD"
    apart = "o = torch.optim.SGD(G.parameters(), lr=0.1); p = torch.optim.Adam(D.parameters())"
    (tmp_path / "two.py").write_text(TWO.format(optimizers=apart, steps="o.step(); p.step()"))
    found = here("--out", "two", "two.py")
    assert "several models are trained: 19 parameters under another Adam" in found.stderr
    assert open_run(tmp_path / "two").steps[0] == 0


PARTS = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{door}
for step in range(34):
    optimizer.zero_grad()
    for _ in range(2):
        x = torch.randn(8, 4)
        loss = cross_entropy(model(x), x[:, :3].argmax(1), {form}
        loss.backward()
    optimizer.step()
{end}
"""


@pytest.mark.parametrize(
    ("form", "told", "typed"),
    [
        ("reduction='mean') / 2", "accumulation=2", ()),
        ("reduction='sum')", "accumulation=2, reduction='sum'", ("--accumulation", "2")),
    ],
)
def test_noise_is_that_of_the_loss_that_was_seen(
    form: str, told: str, typed: tuple[str, ...], tmp_path: Path, here: Callable[..., Result]
) -> None:
    """The first batch is under way when the loss shows what it is."""
    door = "import lawful; watch = lawful.observe(model, 'inside', 'noise', optimizer=optimizer, "
    door += f"{told}, schedule=lawful.every(1)).__enter__()"
    (tmp_path / "parts.py").write_text(PARTS.format(form=form, door="", end=""))
    (tmp_path / "inside.py").write_text(PARTS.format(form=form, door=door, end="watch.close()"))
    found = here("--out", "outside", "--laws", "noise", "--schedule", "every:1", *typed, "parts.py")
    assert (found.exit_code, found.stderr.count("\n")) == (0, 2), found.stderr
    runpy.run_path(str(tmp_path / "inside.py"))
    outside, inside = (numbers(open_run(tmp_path / folder)) for folder in ("outside", "inside"))
    assert outside == inside
    assert (34, "", "noise_scale_micro") in outside


def test_what_goes_wrong_is_said_in_one_line(tmp_path: Path, here: Callable[..., Result]) -> None:
    script = PARTS.format(form="reduction='mean')", door="", end="raise RuntimeError('boom')")
    (tmp_path / "parts.py").write_text(script)
    found = here("--out", "run", "--accumulation", "2", "parts.py")
    ours = [line for line in found.stderr.splitlines() if line.startswith("lawful: ")]
    assert found.exit_code == 1
    assert ours[1] == "lawful: step 34: training stopped: RuntimeError: boom"
    assert "LawfulWarning" not in found.stderr
    assert f'File "{tmp_path / "parts.py"}", line' in found.stderr


def test_a_step_of_ones_own_is_said(tmp_path: Path, here: Callable[..., Result]) -> None:
    own = "for p in D.parameters(): p.data -= p.grad"
    (tmp_path / "own.py").write_text(TWO.format(optimizers="", steps=own))
    found = here("--out", "own", "own.py")
    assert found.exit_code == 0
    assert "observation.advance()" in found.stderr
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--schedule", "often", "a.py"], "schedule='often'"),
        (["--schedule", "every:0", "a.py"], "every(k) needs"),
        (["--laws", "rgb_b", "a.py"], "did you mean rga_b"),
        (["--laws", "edge_of_stability", "a.py"], "lawful inspect"),
        (["--laws", "collapse", "a.py"], "laws='nc1' needs a probe"),
        (["torchrun", "a.py"], "torchrun -m lawful.observe"),
        (["a.py"], "there is no such script"),
        (["--out", "held", "a.py"], "holds a run"),
        (["python", "-c", "1"], "name a script"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_script_starts(
    words: list[str], says: str, tmp_path: Path, here: Callable[..., Result]
) -> None:
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "manifest.json").write_text("{}")
    found = here(*words)
    assert found.exit_code == 2
    assert says in found.stderr
    assert found.stderr.count("\n") == 1


X, Y = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])


@pytest.mark.parametrize(
    ("loss", "form"),
    [
        (lambda f: F.cross_entropy(f, Y), ("mean", 1)),
        (lambda f: nn.CrossEntropyLoss(label_smoothing=0.1)(f, Y) / 4, ("mean", 4)),
        (lambda f: F.cross_entropy(f, Y, reduction="sum"), ("sum", 1)),
        (lambda f: F.cross_entropy(f, Y, reduction="sum") / torch.tensor(15), ("mean", 3)),
        (lambda f: F.cross_entropy(f, Y, reduction="none").sum() / 5, ("mean", 1)),
        (lambda f: 0.5 * F.cross_entropy(f, Y), ("mean", 1)),
        (lambda f: F.mse_loss(f, X) / 2 + F.l1_loss(f, X) / 2, ("mean", 2)),
        (lambda f: 0.3 * F.mse_loss(f, X), ("mean", 1)),
        (lambda f: (f - X).square().sum(1).mean(0) + f.abs().sum(), ("mean", 1)),
        (lambda f: F.kl_div(f.log_softmax(1), X.softmax(1), reduction="batchmean"), ("mean", 1)),
        (lambda f: (f - X).square().sum() / 7.3, None),
        (lambda f: f.logsumexp((0, 1)), None),
    ],
)
def test_the_form_of_a_loss_is_read_in_its_graph(loss, form) -> None:  # type: ignore[no-untyped-def]
    f = (X * 2.0).requires_grad_()
    assert loss_form(loss(f)) == form
    assert loss_form(loss(f) * 1024.0, 1024.0) == form


def test_who_is_trained() -> None:
    inner, other = nn.Linear(3, 3), nn.Linear(9, 9)
    outer = nn.Sequential(nn.Sequential(inner, nn.ReLU()))
    few, many = torch.optim.SGD([inner.bias]), torch.optim.SGD(outer.parameters())
    everything = [other, inner, outer, *outer]
    assert holder(inner, [few, many]) is many
    assert holder(other, [few, many]) is None
    assert trained_by(many, outer, everything) is outer
    assert trained_by(many, None, everything) is inner
    both = torch.optim.SGD([*inner.parameters(), *other.parameters()])
    assert held(both) == {*inner.parameters(), *other.parameters()}
    assert trained_by(both, outer, everything) is other
    pair = nn.ModuleList([inner, other])
    assert trained_by(both, inner, [*everything, pair]) is pair


def test_commands_are_read_as_typed(tmp_path: Path) -> None:
    here = Path(sys.executable)
    command = [str(here), "-W", "error", "-u", "-m", "package.train", "-v"]
    assert interpreter(command) == (None, ["-W", "error", "-u"], ["-m", "package.train", "-v"])
    assert schedule_from("log:10").name == log_spaced(10).name
    assert Wish(tmp_path).laws == ("canonical",)
