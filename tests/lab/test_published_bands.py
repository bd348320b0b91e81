"""Published numbers of neural collapse and of the feature ansatz, in worlds of their own.

Each test names the numbers that were published with the derivation; ours are means of three seeds.
All other laws have an experiment, whose bands `test_experiments` checks.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from lawful.estimators import collapse
from lawful.estimators.feature_ansatz import agop, psd_power
from lawful.lab.datasets import flatten, load, standardise
from lawful.lab.experiment import experiments
from lawful.lab.models import seeded

SEEDS = range(3)

# -- neural collapse -------------------------------------------------------------------------------


def collapsed(normalised: bool, seed: int, steps: int = 2500) -> tuple[float, ...]:
    """NC1, variation and angle of NC2, NC3 squared (as published) and NC4 of 300 digits.

    Four layers of 128 ReLU units, cross-entropy, the whole set at once, η = .1 with two drops,
    momentum .9, decay 10⁻³.
    """
    data = flatten(standardise(load("digits")))
    own = [torch.nonzero(data.y_train == c)[30 * seed : 30 * (seed + 1), 0] for c in range(10)]
    x, y = data.x_train[torch.cat(own)], data.y_train[torch.cat(own)]
    with seeded(seed):
        layers: list[nn.Module] = []
        for inputs in (64, 128, 128, 128):
            norm = [nn.BatchNorm1d(128)] if normalised else []
            layers += [nn.Linear(inputs, 128), *norm, nn.ReLU()]
        body, head = nn.Sequential(*layers), nn.Linear(128, 10)
    weights = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(weights, 0.1, momentum=0.9, weight_decay=1e-3)
    drops = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, 3 * steps // 4], 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(head(body(x)), y).backward()
        optimizer.step()
        drops.step()
    with torch.no_grad():
        h = body.eval()(x).double()
        said = head.double()(h).argmax(1)
    assert bool((said == y).all())
    sums = collapse.class_sums(h, y, 10)
    nc3 = collapse.nc3(sums, head.weight.detach())
    nc2 = collapse.nc2(sums, debias=False)
    return collapse.nc1(sums), *nc2, nc3**2, collapse.nc4(h, said, sums.means)


@pytest.mark.slow
def test_features_collapse_with_batch_norm_and_stall_without():
    """Master table, law 7: NC1/C 1e-4, norms .009, angles .021, NC3 .035, NC4 0; without .10, .22.

    Here (seed 0) 1.6e-4, .010, .023, .046, 0; without normalisation .18 and .34.
    """
    nc1, norms, angles, nc3, nc4 = np.mean([collapsed(True, seed) for seed in SEEDS], 0)
    assert nc1 < 5e-4
    assert norms < 0.015
    assert angles < 0.03
    assert nc3 < 0.06
    assert nc4 == 0
    stalled = np.mean([collapsed(False, seed) for seed in SEEDS], 0)
    assert stalled[0] > 0.08
    assert stalled[2] > 0.15


# -- the feature ansatz ----------------------------------------------------------------------------


def cosine(A: Tensor, B: Tensor) -> float:
    return float((A * B).sum() / (A.norm() * B.norm()))


def product_and_sum(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """x ~ N(0, I_20), y = x_1x_2 + x_3."""
    x = torch.randn(n, 20, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] * x[:, 1] + x[:, 2])[:, None]


def ansatz(decay: float, seed: int, steps: int = 2000) -> tuple[float, float, float, float]:
    """cos(WᵀW, G^s) for s = 1, ½, ⅓ and cos(WᵀW, −Σ ∂ℓ/∂x xᵀ) of a first layer, 600 samples."""
    x, y = product_and_sum(600, seed)
    with seeded(seed):
        sizes = zip((20, 256, 256), (256, 256, 1), strict=True)
        maps = [nn.Linear(a, b, bias=False) for a, b in sizes]
    net = nn.Sequential(maps[0], nn.ReLU(), maps[1], nn.ReLU(), maps[2])
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(0.1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=decay)
    cooling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / steps)
    for _ in range(steps):
        optimizer.zero_grad()
        mse_loss(net(x), y).backward()
        optimizer.step()
        cooling.step()
    x.requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x)
    (pull,) = torch.autograd.grad((net(x) - y).square().sum(), x)
    W = maps[0].weight.detach().double()
    gram, G = W.T @ W, agop([slope]).mean
    forms = (psd_power(G, s) for s in (1.0, 0.5, 1 / 3))
    one, half, third = (cosine(gram, form) for form in forms)
    return one, half, third, cosine(gram, -(pull.T @ x.detach()).double())


@pytest.mark.slow
def test_first_layer_is_a_power_of_its_agop_and_with_decay_its_own_pull():
    """Master table, law 8: cosines .84, .89, .92 for s = 1, ½, ⅓ and FACT .99, with decay 10⁻³.

    Here (seed 0) .79, .85, .89 and .986; the optimiser behind the published numbers is not
    stated. FACT is a theorem on stationary points with decay: without decay it is .16.
    """
    one, half, third, fact = np.mean([ansatz(1e-3, seed) for seed in SEEDS], 0)
    assert 0.72 < one < half < third < 0.95
    assert fact > 0.97
    assert abs(ansatz(0.0, 0)[3]) < 0.5


def laplace(x: Tensor, z: Tensor, M: Tensor) -> Tensor:
    """exp(−‖x − z‖_M/10)."""
    square = ((x @ M) * x).sum(1)[:, None] + ((z @ M) * z).sum(1) - 2 * x @ M @ z.T
    return torch.exp(-square.clamp_min(1e-12).sqrt() / 10)


def recursive(seed: int, rounds: int = 3) -> tuple[list[float], float]:
    """Test errors of a kernel machine whose metric is its own AGOP; overlap with x_1, x_2, x_3."""
    (x, y), (new, wanted) = product_and_sum(600, seed), product_and_sum(1000, seed + 100)
    x, y, new, wanted = x.double(), y.double(), new.double(), wanted.double()
    M, errors = torch.eye(20, dtype=torch.float64), []
    for _ in range(rounds):
        alpha = torch.linalg.solve(laplace(x, x, M) + 1e-3 * torch.eye(len(x)), y)
        errors.append(float((laplace(new, x, M) @ alpha - wanted).square().mean()))
        z = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad((laplace(z, x, M) @ alpha).sum(), z)
        M = agop([slope]).mean
        M = M / M.max()
    top = torch.linalg.eigh(M).eigenvectors[:3, -3:]
    return errors, float(top.square().sum() / 3)


def test_a_kernel_machine_in_the_metric_of_its_agop():
    """Master table, law 8: error .471 → .123 → .093, five times lower; overlap with the truth .995.

    Here (seeds 0, 1) .42 → .07 → .05 and .44 → .11 → .08; .995 and .994.
    """
    found = [recursive(seed) for seed in SEEDS]
    errors, overlap = np.mean([f[0] for f in found], 0), np.mean([f[1] for f in found])
    assert 0.35 < errors[0] < 0.55
    assert errors[2] < errors[1] < errors[0] / 3
    assert errors[2] < errors[0] / 5
    assert overlap > 0.98


# -- the page --------------------------------------------------------------------------------------


def test_what_the_page_of_bands_names_is_there():
    """Every test and experiment in docs/bands.md exists."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "bands.md").read_text(encoding="utf-8")
    tests = "\n".join(p.read_text(encoding="utf-8") for p in (root / "tests").rglob("test_*.py"))
    rows = [line.split("|")[3] for line in page.splitlines() if line.startswith("|")][2:]
    named = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    known = experiments()
    assert [n for n in named if n not in known and f"def {n}(" not in tests] == []
    assert len(named) > 20
