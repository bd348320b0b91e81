"""The public door: a run is recorded, never changed, and no failure of ours stops it."""

from __future__ import annotations

import copy
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lawful
from lawful import LawfulWarning, RecordError, open_run
from lawful.record import RunWriter

Batch = tuple[Tensor, Tensor]
LOUD = 16.0  # a loss so large that the highest scale overflows


def noisy_net() -> nn.Module:
    """Everything that has a state: dropout, batch statistics, attention, a shared weight."""
    torch.manual_seed(1)
    return Noisy()


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.att = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)), inplace=True).transpose(1, 2)
        return self.head(self.drop(self.att(x)).mean(1))


def net(d: int = 8) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, d), nn.ReLU(), nn.Linear(d, 3))


def batches(count: int, n: int = 16) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(count):
        yield (
            torch.randn(n, 6, generator=generator),
            torch.randint(3, (n,), generator=generator),
        )


def step(
    model: Callable[..., Any], optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> float:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, weight_decay=1e-3)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# -- passivity ------------------------------------------------------------------------------------


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything that a run could have been changed in, to be compared bit by bit."""
    out: dict[str, Any] = {f"state {k}": v for k, v in model.state_dict().items()}
    out |= {f"gradient {k}": p.grad for k, p in model.named_parameters()}
    for i, (_, values) in enumerate(optimizer.state.items()):
        out |= {f"optimizer {i} {k}": torch.as_tensor(v) for k, v in values.items()}
    out["torch"] = torch.get_rng_state()
    out["numpy"] = torch.from_numpy(np.random.get_state()[1].astype(np.int64))  # noqa: NPY002
    out["python"] = torch.tensor(random.getstate()[1])
    out["modes"] = torch.tensor([m.training for m in model.modules()])
    return out


def train(
    kind: str, amp: str, accumulation: int, watch: Callable[..., AbstractContextManager[Any]]
) -> dict[str, Any]:
    """Two epochs of a plain loop, observed or not: `watch(model, optimizer, scaler, loader)`."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    data = TensorDataset(torch.randn(48, 2, 5), torch.randint(3, (48,)))
    loader = DataLoader(data, batch_size=8, shuffle=True)
    model = noisy_net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=amp == "scaler", init_scale=2.0**40)
    losses = []
    with watch(model, optimizer, scaler, loader):
        for i, (x, y) in enumerate(batch for _ in range(2) for batch in loader):
            x = x + 0.01 * float(np.random.rand()) + 0.01 * random.random()  # noqa: NPY002
            with torch.autocast("cpu", torch.bfloat16, enabled=amp != "no"):
                loss = F.cross_entropy(model(x), y) / accumulation
            scaler.scale(loss).backward()
            losses.append(loss.item())
            if (i + 1) % accumulation == 0:
                scaler.step(optimizer)
                scaler.update()
                if i < 10:  # the last gradients stay, to be compared
                    optimizer.zero_grad()
    return state(model, optimizer) | {"losses": torch.tensor(losses)}


@pytest.mark.parametrize("source", ["stream", "probe"])
@pytest.mark.parametrize(
    ("kind", "amp", "accumulation"),
    [
        ("sgd", "no", 1),
        ("momentum", "no", 3),
        ("adam", "no", 1),
        ("adamw", "autocast", 2),
        ("momentum", "autocast", 1),
        ("sgd", "scaler", 1),
        ("adam", "scaler", 2),
    ],
)
@pytest.mark.filterwarnings("ignore::lawful.LawfulWarning")
def test_the_run_is_the_same_to_the_bit(
    source: str, kind: str, amp: str, accumulation: int, tmp_path: Path
) -> None:
    def watch(
        model: nn.Module, optimizer: Any, scaler: Any, loader: DataLoader
    ) -> AbstractContextManager[Any]:
        return lawful.observe(
            model,
            tmp_path / "run",
            ["canonical", "collapse", "feature_ansatz"] if source == "probe" else "canonical",
            optimizer=optimizer,
            schedule=lawful.every(2),
            window=2.0,
            accumulation=accumulation,
            scaler=scaler,
            keep="matrices",
            probe=lawful.Probe(loader, F.cross_entropy, "train") if source == "probe" else None,
        )

    plain = train(kind, amp, accumulation, lambda *_: nullcontext())
    observed = train(kind, amp, accumulation, watch)
    assert plain.keys() == observed.keys()
    for name, value in plain.items():
        same = value is observed[name] is None or torch.equal(value, observed[name])
        assert same or bool(value.isnan().any()), name
    assert not open_run(tmp_path / "run").table(layer="head", quantity="rga_b").empty


def test_hooks_are_there_on_measured_steps_only(tmp_path: Path) -> None:
    model, there = noisy_net(), []
    optimizer = sgd(model)
    with lawful.observe(
        model, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(3), window=0.1
    ):
        for _ in range(8):
            there.append(hooks(model) > 0)
            step(model, optimizer, torch.randn(4, 2, 5), torch.randint(3, (4,)))
    assert there == [True, False, False, True, False, False, True, False]
    assert hooks(model) == 0
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_an_optimizer_found_on_its_own_leaves_no_hook_behind(tmp_path: Path) -> None:
    from torch.optim import optimizer as of_torch

    before = len(of_torch._global_optimizer_pre_hooks), len(of_torch._global_optimizer_post_hooks)
    model, other = net(), net()
    mine, theirs = sgd(model), sgd(other)
    with lawful.observe(model, tmp_path / "run", schedule=lawful.every(1)) as observation:
        for x, y in batches(3):
            step(other, theirs, x, y)
            step(model, mine, x, y)
        assert observation.step == 3
        assert observation.run.manifest["optimizer"]["class"] == "SGD"
    after = len(of_torch._global_optimizer_pre_hooks), len(of_torch._global_optimizer_post_hooks)
    assert before == after


def test_updates_by_hand_are_counted_when_told(tmp_path: Path) -> None:
    model = net()
    with lawful.observe(model, tmp_path / "run", schedule=lawful.every(1), window=1.0) as seen:
        for x, y in batches(3):
            F.cross_entropy(model(x), y).backward()
            seen.advance()
            for p in model.parameters():
                p.data.sub_(0.1 * p.grad)
                p.grad = None
    assert open_run(tmp_path / "run").table(layer="0", quantity="rga_b").step.tolist() == [0, 1, 2]


# -- compiled models ------------------------------------------------------------------------------


class Compiled:
    """A small run with a compiled model, its matrices and the number of graph breaks."""

    def __init__(self, out: Path | None, how: str, backend: str, *, scaled: bool = False) -> None:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        self.model: nn.Module = net()
        optimizer = sgd(self.model)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=2.0**127)
        called = self.model
        if how == "wrapped":
            called = torch.compile(self.model, backend=backend)
        elif how == "in place":
            self.model.compile(backend=backend)
        elif how == "one layer":
            self.model[2] = torch.compile(self.model[2], backend=backend)
        watch: AbstractContextManager[Any] = nullcontext()
        if out is not None:
            watch = lawful.observe(
                called, out, optimizer=optimizer, schedule=lawful.at([0, 3, 6]), window=1.0,
                keep="matrices", scaler=scaler,
            )  # fmt: skip
        given = list(batches(9))
        given[3] = given[3][0][:11], given[3][1][:11]  # another batch size
        self.skipped = 0
        with watch:
            for x, y in given:
                optimizer.zero_grad()
                loss = F.cross_entropy(called(x), y) * (LOUD if scaled else 1)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                before = scaler.get_scale()
                scaler.update()
                self.skipped += scaler.get_scale() < before
        self.breaks = dict(torch._dynamo.utils.counters["graph_break"])
        self.state = self.model.state_dict()


# Old torch (2.6 does) breaks the graph at a hook on a tensor inside: slower, and as right.
HOOKS_COMPILE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
COMPILER_TALKS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor:UserWarning"
)


def matrices(out: Path) -> dict[tuple[str, int, str], np.ndarray]:
    run = open_run(out)
    return {
        (layer.replace("._orig_mod", ""), s, q): run.array(q, layer=layer, step=s)
        for layer in run.layers
        for q in ("H_a", "G_b")
        for s in run.array_steps(q, layer)
    }


@pytest.mark.parametrize(
    ("how", "backend"),
    [
        ("wrapped", "aot_eager"),
        ("in place", "aot_eager"),
        ("one layer", "eager"),
        pytest.param("wrapped", "inductor", marks=pytest.mark.slow),
    ],
)
@COMPILER_TALKS
def test_a_compiled_run_is_observed_without_a_graph_break(
    how: str, backend: str, tmp_path: Path
) -> None:
    plain = Compiled(None, how, backend)
    eager = Compiled(tmp_path / "eager", "eager", backend)
    compiled = Compiled(tmp_path / "compiled", how, backend)
    assert compiled.breaks == {} or not HOOKS_COMPILE
    for mine, theirs in zip(compiled.state.values(), plain.state.values(), strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(compiled.state.values(), eager.state.values(), strict=True):
        torch.testing.assert_close(mine, theirs)
    want, got = matrices(tmp_path / "eager"), matrices(tmp_path / "compiled")
    assert {s for _, s, _ in want} == {0, 3, 6}
    assert want.keys() == got.keys()
    for key in want:
        np.testing.assert_allclose(got[key], want[key], rtol=1e-3, atol=1e-7, err_msg=str(key))
    for layer in open_run(tmp_path / "compiled").layers:
        counts = open_run(tmp_path / "compiled").series("clusters", layer).value
        assert counts.tolist() == [16, 11, 16]
    unobserved = open_run(tmp_path / "compiled").manifest["unobserved"]
    assert unobserved == []


def test_a_compiled_run_with_a_scaler(tmp_path: Path) -> None:
    """The first scales overflow: those batches are passed over by the scaler and by us."""
    compiled = Compiled(tmp_path / "run", "wrapped", "aot_eager", scaled=True)
    assert compiled.breaks == {} or not HOOKS_COMPILE
    assert compiled.skipped > 0
    run = open_run(tmp_path / "run")
    assert run.events().empty
    for value in matrices(tmp_path / "run").values():
        assert np.isfinite(value).all()
    got = run.array("G_b", layer="2", step=0)
    model = net()
    x, y = list(batches(compiled.skipped + 1))[-1]
    g = LOUD * torch.autograd.grad(F.cross_entropy(out := model(x), y, reduction="sum"), out)[0]
    np.testing.assert_allclose(got, (g.T @ g / len(g)).numpy(), rtol=1e-4, atol=1e-6)


class Layered(nn.Module):
    """Attention and a layer that is called three times, without chance."""

    def __init__(self, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.att = nn.TransformerEncoderLayer(6, 2, 9, dropout=0.0, batch_first=True)
        self.att.self_attn = attention or self.att.self_attn
        self.again, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.att(x)
        for _ in range(3):
            x = torch.tanh(self.again(x))
        return self.head(x.mean(1))


class TwoViews:
    """A run in which two forward passes come before each backward pass, and all that it told."""

    def __init__(self, out: Path, how: str, backend: str = "aot_eager") -> None:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(3)
        self.model = Layered()
        optimizer = sgd(self.model)
        called: nn.Module = self.model
        if how == "whole":
            called = torch.compile(self.model, backend=backend)  # type: ignore[assignment]
        elif how == "its layers":
            for name, layer in [*self.model.named_children()]:
                setattr(self.model, name, torch.compile(layer, backend=backend))
        generator = torch.Generator().manual_seed(4)
        strict = torch._dynamo.config.patch(error_on_recompile=HOOKS_COMPILE and how == "whole")
        with strict, lawful.observe(
            called, out, optimizer=optimizer, schedule=lawful.every(1), window=1.0, keep="matrices",
        ):  # fmt: skip
            for _ in range(4):
                optimizer.zero_grad()
                for loss in [self.loss(called, generator) for _ in range(2)]:
                    loss.backward()
                optimizer.step()
        self.breaks = dict(torch._dynamo.utils.counters["graph_break"])
        self.graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        self.run, self.matrices = open_run(out), matrices(out)
        self.table = self.run.table(step=0).query("quantity != 'overhead'")
        self.table["layer"] = self.table.layer.str.replace("._orig_mod", "")
        self.table = self.table.set_index(["layer", "quantity"])

    @staticmethod
    def loss(called: nn.Module, generator: torch.Generator) -> Tensor:
        x = torch.randn(8, 5, 6, generator=generator)
        return F.cross_entropy(called(x), torch.randint(3, (8,), generator=generator)) / 2


@pytest.mark.parametrize(
    ("how", "backend"),
    [
        ("whole", "aot_eager"),
        ("its layers", "aot_eager"),
        pytest.param("whole", "inductor", marks=pytest.mark.slow),
    ],
)
@COMPILER_TALKS
def test_a_compiled_run_tells_what_an_eager_one_does(
    how: str, backend: str, tmp_path: Path
) -> None:
    """Every number, error bars and counts too: the samples of one pass are the same samples."""
    eager, compiled = (
        TwoViews(tmp_path / "eager", "eager"),
        TwoViews(tmp_path / "run", how, backend),
    )
    assert compiled.breaks == {} or not HOOKS_COMPILE
    if how == "its layers" and HOOKS_COMPILE:
        assert compiled.graphs == 3
    for mine, theirs in zip(compiled.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert compiled.table.value["again", "clusters"] == 16
    assert compiled.table.value["again", "samples"] == 16 * 15
    assert compiled.run.events().empty, compiled.run.events().to_string()
    assert compiled.matrices.keys() == eager.matrices.keys()
    assert ("att.self_attn.in_proj.k", 3, "G_b") in compiled.matrices
    for key, want in eager.matrices.items():
        error = np.linalg.norm(compiled.matrices[key] - want)
        assert error <= 1e-5 * np.linalg.norm(want), key
    assert compiled.table.index.equals(eager.table.index)
    for column in ("value", "stderr", "n"):
        mine, theirs = compiled.table[column], eager.table[column]
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6, err_msg=column)


def test_measured_steps_are_compiled_once_and_the_others_once(tmp_path: Path) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, graphs = Layered(), []
    optimizer = sgd(model)
    called = torch.compile(model, backend="aot_eager")
    with lawful.observe(
        called, tmp_path / "run", optimizer=optimizer, schedule=lawful.at([0, 3, 6]), window=1.0
    ):
        for _ in range(9):
            step(called, optimizer, torch.randn(8, 5, 6), torch.randint(3, (8,)))
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert set(graphs[1:]) == {graphs[1]} or not HOOKS_COMPILE
    assert open_run(tmp_path / "run").series("rga_b", "again").index.tolist() == [0, 3, 6]


def test_attention_is_given_its_own_forward_back(tmp_path: Path) -> None:
    torch._dynamo.reset()
    model = Layered()
    optimizer = sgd(model)
    called = torch.compile(model, backend="aot_eager")
    with lawful.observe(
        called, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(1), window=1.0
    ):
        step(called, optimizer, torch.randn(8, 5, 6), torch.randint(3, (8,)))
        assert "forward" in vars(model.att.self_attn)
        other = copy.deepcopy(model).att.self_attn
        assert vars(other)["forward"].__self__ is other
    assert "forward" not in vars(model.att.self_attn)


def test_a_compiled_attention_with_a_forward_of_its_own_is_said_not_to_be_seen(
    tmp_path: Path,
) -> None:
    class Louder(nn.MultiheadAttention):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            seen, weights = super().forward(*args, **kwargs)
            return 2 * seen, weights

    torch._dynamo.reset()
    model = Layered(Louder(6, 2, batch_first=True))
    optimizer = sgd(model)
    called = torch.compile(model, backend="aot_eager")
    observation = lawful.observe(
        called, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(1), window=1.0
    )
    with pytest.warns(LawfulWarning, match="forward of its own is not seen") as said, observation:
        step(called, optimizer, torch.randn(8, 5, 6), torch.randint(3, (8,)))
    assert len(said) == 4
    run = open_run(tmp_path / "run")
    missed = {u["name"] for u in run.manifest["unobserved"] if "compiled" in u["reason"]}
    projections = ("in_proj.q", "in_proj.k", "in_proj.v", "out_proj")
    assert missed == {f"att.self_attn.{p}" for p in projections}
    assert run.series("rga_b", "again").index.tolist() == [0]


def test_a_compiled_function_around_the_model_is_told_and_does_no_harm(tmp_path: Path) -> None:
    torch._dynamo.reset()
    model = net()
    optimizer = sgd(model)

    @torch.compile(backend="eager")
    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with lawful.observe(
            model, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(2), window=1.0
        ):
            for x, y in batches(4):
                optimizer.zero_grad()
                loss_of(x, y).backward()
                optimizer.step()
    reason = "called in a compiled function: compile the model, and observe that"
    assert sum(reason in str(w.message) for w in said) == 2
    run = open_run(tmp_path / "run")
    assert {u["name"]: u["reason"] for u in run.manifest["unobserved"]} == dict.fromkeys(
        "02", reason
    )
    assert run.series("rga_b", "2").empty


# -- AMP ------------------------------------------------------------------------------------------


def test_batches_that_overflow_do_not_poison_a_window(tmp_path: Path) -> None:
    model = net()
    optimizer = sgd(model, lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    given = list(batches(12))
    with lawful.observe(
        model, tmp_path / "run", optimizer=optimizer, schedule=lawful.at([0]), window=8.0,
        keep="matrices", scaler=scaler,
    ):  # fmt: skip
        skipped, whole = [], []
        for x, y in given:
            optimizer.zero_grad()
            scale = scaler.get_scale()
            scaler.scale(LOUD * F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
            (whole if scaler.get_scale() >= scale else skipped).append((x, y))
    assert len(skipped) > 2
    x, y = (torch.cat(t) for t in zip(*whole[:4], strict=True))
    out = model(x)
    g = LOUD * torch.autograd.grad(F.cross_entropy(out, y, reduction="sum"), out)[0]
    run = open_run(tmp_path / "run")
    got = run.array("G_b", layer="2", step=0)
    assert run.at("samples", "2").value == 64
    assert run.events().empty
    np.testing.assert_allclose(got, (g.T @ g / len(g)).numpy(), rtol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_weight_gradients_are_read_without_the_scale(fused: bool, tmp_path: Path) -> None:
    """A fused optimiser unscales inside its step, any other one before."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    ((x, y),) = batches(1)
    g = torch.autograd.grad(F.cross_entropy(model(x), y), model[2].weight)[0]
    with lawful.observe(
        model, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(1), window=1.0,
        scaler=scaler,
    ):  # fmt: skip
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
    run = open_run(tmp_path / "run")
    assert run.at("gradient_norm2", "2").value == pytest.approx(g.square().sum().item(), rel=1e-5)


# -- schedules ------------------------------------------------------------------------------------


def recorded(
    tmp_path: Path, schedule: lawful.Schedule, steps: int, n: int = 16, **options: Any
) -> lawful.Run:
    model = net()
    optimizer = sgd(model)
    with lawful.observe(model, tmp_path / "run", optimizer=optimizer, schedule=schedule, **options):
        for x, y in batches(steps, n):
            step(model, optimizer, x, y)
    return open_run(tmp_path / "run")


def table(run: lawful.Run, quantity: str, layer: str = "2") -> list[tuple[int, int]]:
    series = run.series(quantity, layer)
    return [(int(s), int(v)) for s, v in series.value.items()]


def test_every_step(tmp_path: Path) -> None:
    """Initialisation first; then 32·d = 256 rows are 16 batches of 16, the last window half."""
    run = recorded(tmp_path, lawful.every(1), 25)
    assert table(run, "samples") == [(0, 16), (16, 256), (25, 128)]
    assert run.at("required_samples", "2").value == 256
    assert run.at("drift", "2", 16).value > 0


def test_every_third_step(tmp_path: Path) -> None:
    run = recorded(tmp_path, lawful.every(3), 34)
    assert table(run, "samples") == [(0, 16), (34, 176)]


def test_the_first_full_window_has_its_evidence_at_once(tmp_path: Path) -> None:
    """Also a run that is killed later leaves verdicts."""
    model = net()
    optimizer = sgd(model)
    with lawful.observe(
        model, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(1)
    ) as observation:
        for x, y in batches(17):
            step(model, optimizer, x, y)
        assert observation.run.at("rga_b_permutation", "2", 16) is not None


@pytest.mark.parametrize("width", [4, 64])
def test_the_default_measures_small_and_large_networks_again(tmp_path: Path, width: int) -> None:
    """What is counted of a reading grows with a network as its training does."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))
    optimizer = sgd(model)
    x, y = torch.randn(256, 8), torch.randint(0, 3, (256,))
    with lawful.observe(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(3000):
            step(model, optimizer, x, y)
    assert len(table(open_run(tmp_path / "run"), "samples")) >= 2


def test_a_last_window_of_too_few_rows_does_not_cover_up_a_full_one(tmp_path: Path) -> None:
    """One batch of 16 rows is short of 4·d = 32: the full window stays the latest word."""
    run = recorded(tmp_path, lawful.every(1), 18)
    assert table(run, "samples") == [(0, 16), (16, 256)]
    assert run.at("rga_b_permutation", "2") is not None


def test_a_probe_is_taken_at_every_kth_step(tmp_path: Path) -> None:
    probe = lawful.Probe(list(batches(4)), F.cross_entropy)
    run = recorded(tmp_path, lawful.every(5), 12, probe=probe)
    assert [s for s, _ in table(run, "samples")] == [0, 5, 10, 12]


def test_log_spaced_windows_close_when_the_next_one_opens(tmp_path: Path) -> None:
    """4·d = 32 rows are two batches, where there is room for two."""
    run = recorded(tmp_path, lawful.log_spaced(6, last=100), 120)
    assert table(run, "samples") == [(0, 16), (1, 32), (3, 32), (10, 32), (32, 32), (100, 32)]
    assert {v for _, v in table(run, "required_samples")} == {32}


def test_at_steps(tmp_path: Path) -> None:
    assert table(recorded(tmp_path, lawful.at([2, 9]), 12), "samples") == [(2, 32), (9, 32)]


def test_a_budget_measures_the_first_batch(tmp_path: Path) -> None:
    run = recorded(tmp_path, lawful.budget(0.5), 10)
    assert table(run, "samples")[0][0] == 0
    assert run.manifest["schedule"] == "budget(0.5)"


def test_the_default_keeps_to_its_share_and_measures_the_start(tmp_path: Path) -> None:
    model = net()
    optimizer = sgd(model)
    with lawful.observe(model, tmp_path / "run", optimizer=optimizer):
        for x, y in batches(5):
            step(model, optimizer, x, y)
    assert table(open_run(tmp_path / "run"), "samples")[0] == (0, 16)


def test_the_first_measurement_is_of_the_initialisation(tmp_path: Path) -> None:
    run = recorded(tmp_path, lawful.at([0]), 5, n=64, keep="matrices")
    want = net()[2].weight.detach().numpy()
    np.testing.assert_array_equal(run.array("W", layer="2", step=0), want)
    assert run.at("drift", "2", 0).value == 0.0


def test_a_window_is_at_the_weights_that_closed_it(tmp_path: Path) -> None:
    model = net()
    optimizer = sgd(model)
    with lawful.observe(
        model, tmp_path / "run", optimizer=optimizer, schedule=lawful.at([1]), keep="matrices"
    ):
        for i, (x, y) in enumerate(batches(4)):
            if i == 2:  # the second batch of the window
                want = model[2].weight.detach().clone().numpy()
            step(model, optimizer, x, y)
    run = open_run(tmp_path / "run")
    np.testing.assert_array_equal(run.array("W", layer="2", step=1), want)


def test_one_schedule_serves_two_runs(tmp_path: Path) -> None:
    schedule = lawful.at([0, 4])
    for name in ("a", "b"):
        assert table(recorded(tmp_path / name, schedule, 6), "samples") == [(0, 32), (4, 32)]


def test_a_probe_measures_the_start_the_schedule_and_the_end(tmp_path: Path) -> None:
    probe = lawful.Probe(list(batches(4)), F.cross_entropy)
    run = recorded(tmp_path, lawful.at([0, 5]), 8, probe=probe)
    assert table(run, "samples") == [(0, 64), (5, 64), (8, 64)]
    assert run.manifest["source"] == "probe"


def test_a_probe_knows_nothing_of_accumulation_and_scale(tmp_path: Path) -> None:
    """Its own loss is a plain mean: G_b is the same whatever the training loop does."""
    probe = lawful.Probe(list(batches(4)), F.cross_entropy)
    one = recorded(tmp_path / "a", lawful.at([0]), 1, probe=probe, keep="matrices")
    other = recorded(
        tmp_path / "b", lawful.at([0]), 1, probe=probe, keep="matrices", accumulation=4,
        reduction="sum", scaler=torch.amp.GradScaler("cpu"),
    )  # fmt: skip
    a, b = (run.array("G_b", layer="2", step=0) for run in (one, other))
    np.testing.assert_array_equal(a, b)


# -- what goes wrong in a run -------------------------------------------------------------------


def run_with_trouble(
    out: Path, trouble: Callable[[int, Tensor, lawful.Observation], Tensor], steps: int
) -> tuple[nn.Module, list[str]]:
    """A loop whose loss goes through `trouble` at every step; what was said on the way."""
    model = net()
    optimizer = sgd(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with lawful.observe(
            model, out, optimizer=optimizer, schedule=lawful.every(1), window=1.0
        ) as observation:
            for i, (x, y) in enumerate(batches(steps)):
                optimizer.zero_grad()
                trouble(i, F.cross_entropy(model(x), y), observation).backward()
                optimizer.step()
    assert all(w.category is LawfulWarning for w in said)
    return model, [str(w.message) for w in said]


def test_a_loss_that_turns_nan(tmp_path: Path) -> None:
    """Training goes on as it would; what was measured stays, and nothing wrong is added."""

    def nan_at_four(i: int, loss: Tensor, observation: lawful.Observation) -> Tensor:
        loss = loss * (torch.nan if i == 4 else 1.0)
        observation.log(loss=loss.item())
        return loss

    model, said = run_with_trouble(tmp_path / "run", nan_at_four, 7)
    assert bool(model[0].weight.isnan().any())
    assert said == [
        "lawful, step 4: the loss is nan",
        *(
            f"lawful, step 4: layer '{layer}': its weights, activations or gradients are not finite"
            for layer in "02"
        ),
    ]
    run = open_run(tmp_path / "run")
    for layer in "02":
        assert run.series("rga_b", layer).index.tolist() == [0, 1, 2, 3]
        assert run.table(layer=layer).step.max() == 3
    assert set(run.events().kind) == {"warning"}
    assert run.manifest["status"] == "finished"


def test_a_nan_in_one_window_does_not_reach_the_next(tmp_path: Path) -> None:
    """The loop notices, and clears the gradients before the update."""

    def cleared(i: int, loss: Tensor, observation: lawful.Observation) -> Tensor:
        if i != 2:
            return loss
        (loss * torch.nan).backward()
        for p in observation.model.parameters():
            p.grad = None
        return torch.zeros((), requires_grad=True)

    model, said = run_with_trouble(tmp_path / "run", cleared, 5)
    assert not bool(model[0].weight.isnan().any())
    assert len(said) == 2
    assert open_run(tmp_path / "run").series("rga_b", "2").index.tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("theirs"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
@pytest.mark.filterwarnings("ignore:lawful, step 3. training stopped")
def test_a_loop_that_stops(error: BaseException, status: str, tmp_path: Path) -> None:
    model = net()
    optimizer = sgd(model)

    def loop() -> None:
        with lawful.observe(
            model, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(1), window=1.0
        ):
            for i, (x, y) in enumerate(batches(5)):
                if i == 3:
                    raise error
                step(model, optimizer, x, y)

    with pytest.raises(type(error)):
        loop()
    run = open_run(tmp_path / "run")
    assert (run.manifest["status"], run.manifest["steps"]) == (status, 3)
    assert run.series("rga_b", "2").index.tolist() == [0, 1, 2]
    assert hooks(model) == 0


def test_ctrl_c_while_the_last_reading_is_taken_lets_go_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net()

    def pressed(self: lawful.Observation, status: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lawful.Observation, "_finish", pressed)
    with pytest.raises(KeyboardInterrupt), lawful.observe(model, tmp_path / "run"):
        pass
    run = open_run(tmp_path / "run")
    assert run.manifest["status"] == "interrupted"  # and not finished: a reading is owed
    with RunWriter.create(run.path, {}, resume=True):
        pass


@pytest.mark.parametrize(("code", "status"), [(0, "finished"), (None, "finished"), (3, "failed")])
@pytest.mark.filterwarnings("ignore:lawful, step 2. training stopped")
def test_a_loop_that_exits(code: int | None, status: str, tmp_path: Path) -> None:
    model = net()
    optimizer = sgd(model)

    def loop() -> None:
        with lawful.observe(model, tmp_path, optimizer=optimizer, schedule=lawful.every(1)):
            for x, y in batches(2):
                step(model, optimizer, x, y)
            raise SystemExit(code)

    with pytest.raises(SystemExit):
        loop()
    run = open_run(tmp_path)
    assert run.manifest["status"] == status
    assert run.events().empty == (status == "finished")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:lawful, step 0. no gradient reached")
def test_a_forked_child_leaves_the_record_to_its_parent(tmp_path: Path) -> None:
    model = net()
    with lawful.observe(model, tmp_path, schedule=lawful.every(1)) as observation:
        child = os.fork()
        if not child:  # what leaves a `with` block of the child's copy of it
            observation.__exit__(None, None, None)
            observation.close("failed")
            os._exit(0)
        os.waitpid(child, 0)
        assert open_run(tmp_path).manifest["status"] == "running"
        observation.log(loss=1.0)
    assert open_run(tmp_path).at("loss", "") is not None


@pytest.mark.filterwarnings("error")
def test_warnings_made_errors_do_not_keep_the_folder(tmp_path: Path) -> None:
    model = net()
    with (
        pytest.raises(LawfulWarning),
        lawful.observe(model, tmp_path / "run", schedule=lawful.every(1)),
    ):
        raise ValueError("theirs")
    run = open_run(tmp_path / "run")
    assert run.manifest["status"] in ("failed", "interrupted")
    assert "theirs" in run.events()["message"].iloc[0]
    assert hooks(model) == 0
    with RunWriter.create(run.path, {}, resume=True):
        pass


def test_a_window_that_opens_as_the_run_ends_is_nothing_to_warn_of(tmp_path: Path) -> None:
    model = net()
    optimizer = sgd(model)
    with lawful.observe(model, tmp_path, optimizer=optimizer, schedule=lawful.every(5)):
        for x, y in batches(5):
            step(model, optimizer, x, y)
    run = open_run(tmp_path)
    assert run.events().empty
    assert run.steps == [0]


class Adafactor(torch.optim.Optimizer):
    """Settings as those of optimisers that find their own rate: none, or several at once."""

    def __init__(self, parameters: Any) -> None:
        scales = {"scales": torch.ones(3), "betas": torch.tensor([0.9, 0.99])}
        super().__init__(parameters, {"lr": None, "eps": (1e-30, 1e-3), **scales})

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p -= 0.1 * p.grad


@pytest.mark.parametrize("laws", ["canonical", "noise"])
def test_an_optimizer_whose_rate_is_no_number(tmp_path: Path, laws: str) -> None:
    model = net()
    optimizer = Adafactor(model.parameters())
    with lawful.observe(
        model, tmp_path, laws, optimizer=optimizer, schedule=lawful.every(1), window=1.0
    ):
        for x, y in batches(6):
            step(model, optimizer, x, y)
    run = open_run(tmp_path)
    assert run.steps
    assert run.events().empty
    assert run.manifest["optimizer"]["groups"][0]["scales"] == [1.0, 1.0, 1.0]
    lawful.test(run)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, training goes on, what was written before is intact."""
    model, write = net(), RunWriter.write
    optimizer = sgd(model)

    def full(self: RunWriter, at: int, *rest: Any) -> None:
        if at >= 2:
            raise RecordError(f"cannot write step {at}: no space left on device")
        write(self, at, *rest)

    monkeypatch.setattr(RunWriter, "write", full)
    with (
        warnings.catch_warnings(record=True) as said,
        lawful.observe(
            model, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(1), window=1.0
        ) as observation,
    ):
        warnings.simplefilter("always")
        for x, y in batches(6):
            observation.log(loss=step(model, optimizer, x, y))
        assert observation.step == 6
    assert [str(w.message) for w in said] == [
        "lawful, step 2: cannot write step 2: no space left on device"
    ]
    run = open_run(tmp_path / "run")
    assert run.series("rga_b", "2").index.tolist() == [0, 1]


def test_an_empty_batch_and_a_batch_of_one(tmp_path: Path) -> None:
    model = net()
    optimizer = sgd(model, lr=0.0)
    with lawful.observe(
        model, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(1), window=1e-3
    ):
        for n in (16, 1, 0, 16):
            x, y = torch.randn(n, 6), torch.randint(3, (n,))
            optimizer.zero_grad()
            F.cross_entropy(model(x), y, reduction="sum").div(max(n, 1)).backward()
            optimizer.step()
    run = open_run(tmp_path / "run")
    assert table(run, "samples") == [(0, 16), (1, 1), (3, 16)]
    assert np.isnan(run.at("rga_b", "2", 1).value) if run.at("rga_b", "2", 1) else True
    assert "measuring failed" not in " ".join(run.events().message)


def test_layers_that_are_frozen_dead_or_never_called(tmp_path: Path) -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.fc, self.unused = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(2, 2)
            self.frozen.requires_grad_(False)
            self.gain = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.gain * self.frozen(x * self.gain))

    model = Partly()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with lawful.observe(
        model, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(1), window=1.0
    ):
        for x, y in batches(3):
            step(model, optimizer, x, y)
    run = open_run(tmp_path / "run")
    notes = {entry["name"]: entry["note"] for entry in run.manifest["layers"]}
    assert notes == {"frozen": "frozen", "fc": "", "unused": ""}
    reasons = {u["name"]: u["reason"] for u in run.manifest["unobserved"]}
    assert reasons == {
        "": "parameters of its own outside any layer",
        "unused": "never called with a gradient in a measured step",
    }
    assert len(run.series("rga_b", "frozen")) == 3


def test_a_model_that_returns_a_dictionary(tmp_path: Path) -> None:
    class Answers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, *, inputs: Tensor) -> dict[str, tuple[Tensor, ...]]:
            return {"logits": (self.fc(inputs), inputs)}

    model = Answers()
    optimizer = sgd(model)
    with lawful.observe(
        model, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(1), window=1.0
    ):
        for x, y in batches(3):
            step(lambda x: model(inputs=x)["logits"][0], optimizer, x, y)
    assert len(open_run(tmp_path / "run").series("rga_b", "fc")) == 3


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (lambda: lawful.Probe([], F.cross_entropy), "the probe gave no batch"),
        (lambda: lawful.Probe([3], F.cross_entropy), "a probe's batches are pairs"),
        (
            lambda: lawful.Probe(list(batches(1)), lambda o, y: (o - y).sum()),
            "The size of tensor a",
        ),
    ],
)
def test_a_probe_that_does_not_work_is_told_and_training_goes_on(
    probe: Callable[[], lawful.Probe], message: str, tmp_path: Path
) -> None:
    with pytest.warns(LawfulWarning, match=message):
        run = recorded(tmp_path, lawful.every(2), 6, probe=probe())
    assert run.manifest["status"] == "finished"
    assert run.manifest["steps"] == 6
    assert run.series("rga_b", "2").empty


# -- folders --------------------------------------------------------------------------------------


def test_a_folder_is_not_used_twice_but_resumed(tmp_path: Path) -> None:
    recorded(tmp_path, lawful.every(1), 3, window=1.0)
    with pytest.raises(RecordError, match="resume=True"):
        recorded(tmp_path, lawful.every(1), 3, window=1.0)
    run = recorded(tmp_path, lawful.every(1), 2, window=1.0, resume=True, first_step=3)
    assert run.series("rga_b", "2").index.tolist() == [0, 1, 2, 3, 4]
    assert run.manifest["steps"] == 5


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    model = net()
    with pytest.raises(RecordError, match="cannot write"):
        lawful.observe(model, tmp_path / "file" / "run").__enter__()
    assert hooks(model) == 0


def test_an_observation_that_is_never_entered_does_nothing(tmp_path: Path) -> None:
    model = net()
    optimizer = sgd(model)
    observation = lawful.observe(model, tmp_path / "run", optimizer=optimizer)
    for x, y in batches(2):
        step(model, optimizer, x, y)
    observation.log(loss=1.0)
    observation.close()
    assert not (tmp_path / "run").exists()
    assert hooks(model) == 0


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "none"}, r"reduction='none': choose 'mean' or 'sum'"),
        ({"keep": "everything"}, r"keep='everything': choose None or 'matrices'"),
        ({"schedule": 10}, r"schedule=10: use lawful.every"),
        ({"window": 0.0}, r"window=0.0: give rows per dimension"),
        ({"accumulation": 0}, r"accumulation=0: the number of micro-batches"),
        ({"layers": "fc*"}, r"layers='fc\*' matches no layer; the layers are: 0, 2"),
        ({"heads": {"qkv": 2}}, r"heads='qkv' matches no layer"),
        ({"heads": {"0": 3}}, r"heads=3 does not divide '0'"),
        ({"optimizer": "sgd"}, r"optimizer must be a torch.optim.Optimizer, got str"),
        ({"laws": "no such law"}, r"no such law"),
        ({"laws": "collapse"}, r"laws=nc1, nc2, nc3, nc4 look at fixed weights: pass probe="),
        ({"laws": "nfa"}, r"laws=nfa look at fixed weights: pass probe="),
    ],
)
def test_arguments_that_cannot_be(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        lawful.observe(net(), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_the_optimizer_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no parameter of this model"):
        lawful.observe(net(), tmp_path / "run", optimizer=sgd(net()))


def test_an_optimizer_whose_numbers_are_no_numbers(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)  # eps is a pair
    observation = lawful.observe(
        model, tmp_path / "run", ["noise_scale"], optimizer=optimizer, schedule=lawful.at([0])
    )
    with observation:
        for x, y in batches(33):
            step(model, optimizer, x, y)
    assert "noise_scale" in set(observation.run.table().quantity)


def test_an_optimizer_that_climbs(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    with pytest.raises(ValueError, match="maximize=True"):
        lawful.observe(model, tmp_path / "run", optimizer=optimizer)
    observation = lawful.observe(model, tmp_path / "run", schedule=lawful.every(1))
    with pytest.warns(LawfulWarning) as said, observation:
        step(model, optimizer, *next(batches(1)))  # which finds it
    assert "maximize=True" in str(said[0].message)
    assert observation.run.table().empty


def test_a_model_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model must be a torch\.nn\.Module, got function"):
        lawful.observe(batches, tmp_path / "run")  # type: ignore[arg-type]


@pytest.mark.parametrize(("k", "share"), [(1, 2), (3, 2), (4, 1)])
def test_where_nearly_every_step_is_measured_half_of_a_batch_is_taken(tmp_path, k, share):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(128, 4)
    with lawful.observe(
        model, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(k), window=128
    ) as observation:
        for _ in range(9):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    samples = observation.run.series("samples", "0")["value"]
    assert samples.loc[0] == 128, "initialisation is measured whole"
    measured = len(range(k, 9, k))
    assert samples.iloc[-1] == pytest.approx(128 * measured / share)


@pytest.mark.parametrize(("k", "share"), [(1, 2), (10, 2)])
def test_of_sequences_half_the_positions_are_taken(tmp_path, k, share):
    """Down to 512 rows; the samples stay as many as they are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(64, 32, 4)
    with lawful.observe(
        model, tmp_path / "run", optimizer=optimizer, schedule=lawful.every(k), window=99999
    ) as observation:
        for _ in range(41):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    measured = len(range(k, 41, k))
    rows = [observation.run.series(q, "0")["value"] for q in ("samples", "clusters")]
    assert [r.loc[0] for r in rows] == [2048, 64], "initialisation is measured whole"
    assert [r.iloc[-1] for r in rows] == [2048 * measured / share, 64 * measured]


def test_of_a_family_the_laws_of_simulated_worlds_are_left_out(tmp_path):
    """Named one by one they are taken; a family of nothing else is refused."""
    model = torch.nn.Linear(3, 2)
    with lawful.observe(model, tmp_path / "family", "noise") as observation:
        told = set(observation.run.manifest["laws"])
    assert "noise_scale" in told
    assert not told & {"platonic", "critical_batch", "linear_scaling", "entropic_drift"}
    with lawful.observe(model, tmp_path / "named", ["virial", "platonic"]) as observation:
        assert set(observation.run.manifest["laws"]) == {"virial", "platonic"}
    with pytest.raises(ValueError, match=r"laws=.representation_collapse.: .* simulated worlds"):
        lawful.observe(model, tmp_path / "none", "representation_collapse")
