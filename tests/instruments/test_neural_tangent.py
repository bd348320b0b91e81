"""The tangent kernel against Jacobians by brute force; changes, sketches, bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import lawful
from lawful.instruments import neural_tangent as nt
from lawful.instruments.neural_tangent import NeuralTangent, alignment, tangent_kernel, targets
from lawful.instruments.probe import Probe
from lawful.lab.models import GPT, MLP, ConvNet

PAIRS = [
    (lambda: MLP(5, 3, width=8, depth=2, activation="tanh"), (7, 5)),
    (lambda: ConvNet(1, 4, width=2), (4, 1, 8, 8)),
    (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 1)), (5, 5)),
]


def brute(model: nn.Module, x: Tensor) -> Tensor:
    """Mean over outputs of ∇f_c(x)·∇f_c(x′), one backward pass at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    f = model(x).flatten(1)
    rows = []
    for sample in f:
        each = [torch.autograd.grad(v, parameters, retain_graph=True) for v in sample]
        rows.append(torch.stack([torch.cat([g.flatten() for g in gs]) for gs in each]))
    J = torch.stack(rows)
    return torch.einsum("nrd,mrd->nm", J, J) / f.shape[1]


def kernel(model: nn.Module, x: Tensor, **options: int) -> tuple[Tensor, bool]:
    theta = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return tangent_kernel(model, theta, x, outputs=model(x)[0].numel(), **options)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("make", "shape"), PAIRS)
def test_kernel_is_that_of_the_jacobian(make, shape) -> None:
    model, x = make().double().eval(), torch.randn(shape, dtype=torch.float64)
    found, sketched = kernel(model, x)
    assert not sketched
    assert torch.allclose(found, brute(model, x), rtol=1e-10)


def test_kernel_of_a_transformer() -> None:
    model = GPT(7, width=8, depth=1, heads=2, context=6).double()
    x = torch.randint(7, (3, 6))
    assert torch.allclose(kernel(model, x)[0], brute(model, x), rtol=1e-9)


def test_batch_statistics_go_through_the_whole_batch() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    assert torch.allclose(kernel(model, x)[0], brute(model, x), rtol=1e-9)
    model[1] = nn.BatchNorm1d(6, track_running_stats=False).double()  # has no others
    assert torch.allclose(kernel(model.eval(), x)[0], brute(model, x), rtol=1e-9)


@pytest.mark.parametrize("memory", [60_000, 4_000])
def test_sketches_are_near_and_say_so(memory: int) -> None:
    """Mixed outputs alone, then mixed outputs and hashed gradients: unbiased over seeds."""
    model, x = MLP(5, 12, width=16, depth=1, activation="tanh").double(), torch.randn(6, 5).double()
    exact, found = brute(model, x), []
    for draw in range(60):
        value, sketched = kernel(model, x, memory=memory, seed=draw)
        assert sketched
        found.append(value)
    mean = torch.stack(found).mean(0)
    assert float((mean - exact).norm() / exact.norm()) < 0.06


def watched(model: nn.Module, x: Tensor, y: Tensor, loss, steps: int, rate: float) -> list[dict]:
    """Readings before and after descent, {(layer, quantity): value}."""
    instrument, probe = NeuralTangent(points=len(x)), Probe([(x, y)], loss)
    optimizer, found = torch.optim.SGD(model.parameters(), lr=rate), []
    for part in range(2):
        reading = instrument.measure(part, model, probe, {})
        assert not reading.problems
        found.append({(r.layer, r.quantity): r.value for r in reading.rows})
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return found


def test_a_linear_model_is_its_own_linearisation() -> None:
    model, x = nn.Linear(4, 2).double(), torch.randn(8, 4, dtype=torch.float64)
    first, last = watched(model, x, torch.randn(8, 2).double(), mse_loss, 20, 0.1)
    assert ("", "linearisation_distance") not in first
    assert last["", "linearisation_distance"] < 1e-12
    assert last["", "ntk_change"] == 0
    assert last["", "weight_change"] > 0.01


def test_changes_against_differences_by_hand() -> None:
    model = MLP(4, 2, width=16, depth=1, activation="tanh").double()
    began = copy.deepcopy(model)
    x, y = torch.randn(6, 4).double(), torch.randn(6, 2).double()
    first, last = watched(model, x, y, mse_loss, 30, 0.1)
    # `watched` trains once more after its last reading, so train a copy to the same point.
    other, start = began, copy.deepcopy(began)
    kernel_0, optimizer = brute(start, x), torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        mse_loss(other(x), y).backward()
        optimizer.step()
    kernel_t = brute(other, x)
    assert first["", "ntk_change"] == 0
    assert last["", "ntk_change"] == pytest.approx(
        float((kernel_t - kernel_0).norm() / kernel_0.norm())
    )
    cosine = float((kernel_t * kernel_0).sum() / kernel_t.norm() / kernel_0.norm())
    assert last["", "ntk_turn"] == pytest.approx(1 - cosine)
    h0, h1 = start.fc0(x).detach(), other.fc0(x).detach()
    assert last["fc0", "feature_change"] == pytest.approx(float((h1 - h0).norm() / h0.norm()))
    moved = {n: p - q for (n, p), (_, q) in
             zip(other.named_parameters(), start.named_parameters(), strict=True)}  # fmt: skip
    eps = 1e-6
    with torch.no_grad():
        nudged = copy.deepcopy(start)
        for n, p in nudged.named_parameters():
            p += eps * moved[n]
        along = (nudged(x) - start(x)) / eps
        gone = other(x) - start(x)
    expected = float((gone - along).norm() / gone.norm())
    assert last["", "linearisation_distance"] == pytest.approx(expected, rel=1e-3)


def test_alignment_of_classes() -> None:
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    onehot = targets(y, 6)
    assert alignment(onehot @ onehot.T, onehot) == pytest.approx(1)
    assert math.isnan(alignment(torch.eye(6).double(), torch.ones(6, 1)))
    assert targets("words", 6) is None


def test_nothing_is_left_behind() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    probe = Probe([(torch.randn(9, 3), torch.randint(2, (9,)))], cross_entropy, mode="train")
    state = torch.get_rng_state()
    reading = NeuralTangent().measure(0, model, probe, {})
    assert not reading.problems
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w / 0.0


@pytest.mark.parametrize(
    ("model", "batches", "told"),
    [
        (Broken(), [(torch.ones(4, 3), torch.ones(4))], "not finite"),
        (nn.Linear(3, 1), [], "no batch"),
        (nn.Linear(3, 1).requires_grad_(False), [(torch.ones(4, 3), None)], "no parameter"),
        (nn.Linear(3, 1), [(torch.ones(4, 2), torch.ones(4))], "no tangent kernel"),
    ],
)
def test_what_cannot_be_measured_is_a_problem_with_a_reason(model, batches, told) -> None:
    reading = NeuralTangent().measure(0, model, Probe(batches, mse_loss), {})
    assert not reading.rows
    assert told in reading.problems[0][1]


def test_what_is_not_known_is_no_number() -> None:
    dead = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(dead.weight)
    probe = Probe([(torch.zeros(4, 3), torch.ones(4, 1))], mse_loss)
    rows = NeuralTangent().measure(0, dead, probe, {}).rows
    assert math.isnan(next(m.value for m in rows if m.quantity == "ntk_turn"))


def test_parameters_that_begin_to_be_trained_end_the_comparison() -> None:
    model, x = MLP(4, 2, width=8, depth=1), torch.randn(6, 4)
    probe, tangent = Probe([(x, torch.randn(6, 2))], mse_loss), NeuralTangent()
    model.fc0.weight.requires_grad_(False)
    tangent.measure(0, model, probe, {})
    model.fc0.weight.requires_grad_(True)
    reading = tangent.measure(1, model, probe, {})
    assert "other parameters are trained" in reading.problems[0][1]
    assert "ntk_change" not in {m.quantity for m in reading.rows}
    assert "ntk_trace" in {m.quantity for m in reading.rows}


def test_dropout_is_no_change_of_the_kernel() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    probe = Probe([(torch.randn(6, 4), torch.randn(6, 2))], mse_loss, mode="train")
    tangent = NeuralTangent()
    tangent.measure(0, model, probe, {})
    torch.rand(3)
    rows = tangent.measure(1, model, probe, {}).rows
    found = {m.quantity: m.value for m in rows}
    assert found["ntk_change"] == found["feature_change"] == 0
    assert "linearisation_distance" not in found


def test_one_point_is_refused() -> None:
    with pytest.raises(ValueError, match="points=1"):
        NeuralTangent(points=1)


def test_a_law_that_asks_for_the_kernel_gets_it(tmp_path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(32, 4), torch.randn(32, 2)
    model = MLP(4, 2, width=256, depth=1, activation="tanh")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with lawful.observe(
        model, out=tmp_path, optimizer=optimizer, laws="lazy_linear",
        probe=Probe([(x, y)], mse_loss), schedule=lawful.log_spaced(4, last=10),
    ):  # fmt: skip
        for _ in range(10):
            optimizer.zero_grad()
            mse_loss(model(x), y).backward()
            optimizer.step()
    run = lawful.open_run(tmp_path)
    assert run.at("ntk_change", "").value > 0
    assert run.at("linearisation_distance", "").value < 1
    assert run.series("feature_change", "fc0").value.iloc[-1] > 0
    assert nt.MEMORY > 0
