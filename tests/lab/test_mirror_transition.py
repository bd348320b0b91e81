"""mirror-transition: its gradients, its mirrors and its theory against brute force."""

import math

import numpy as np
import pytest
import torch

from lawful.lab.experiment import experiment, last
from lawful.lab.experiments import mirror_transition as mt
from lawful.theory.deep_linear_minima import modes


@pytest.mark.parametrize("K", [2, 3])
def test_slopes_of_a_product_are_those_of_autograd(K):
    draw = torch.Generator().manual_seed(0)
    W = torch.randn(2, K, 3, 3, generator=draw, dtype=mt.REAL).requires_grad_()
    target = torch.randn(3, 3, generator=draw, dtype=mt.REAL)
    found, product = mt.slopes(W, target)
    P = torch.stack([torch.linalg.multi_dot(list(w.flip(0))) for w in W])
    loss = mt.SECOND_MOMENT * P.square().sum() - 2 * (P * target).sum()
    (brute,) = torch.autograd.grad(loss, W)
    assert torch.allclose(product, P)
    assert torch.allclose(found, brute)


def test_the_nearest_mirror_is_that_of_the_whole_group():
    a = torch.tensor([1.0, 2.0], dtype=mt.REAL)
    states = {
        "equal": (torch.cat([a, a]), 0.0),
        "opposite": (torch.cat([a, -a]), 0.0),
        "one dead": (torch.cat([a, 0 * a]), 0.0),
        "nearly equal": (torch.cat([a, a + 0.1]), 0.1),
    }
    for name, (theta, distance) in states.items():
        assert float(mt.nearest_mirror(theta)) == pytest.approx(distance, abs=1e-9), name


def test_the_pitchfork_is_the_loss_across_the_plane_at_relaxed_plane_coordinates():
    """a and c₁ against a fit of min_z L(θ_s + z + s v), z in the plane, at small s."""
    gamma = 0.0125
    a, quartic, v = mt.pitchfork(gamma)
    theta = mt.symmetric_minimiser(gamma)

    def relaxed(s):
        def loss(z):
            at = theta + z.repeat(2) + s * v
            return mt.fit(at) + gamma * at.square().sum()

        z = torch.zeros(2, dtype=mt.REAL)
        for _ in range(8):
            slope, H = torch.func.grad(loss)(z), mt.hessian(loss)(z)
            z = z - torch.linalg.solve(H, slope)
        return float(loss(z))

    s = np.array([0.02, 0.04, 0.06])
    rise = np.array([relaxed(x) - relaxed(0.0) for x in s])
    fitted = np.polyfit(s**2, rise / s**2, 1)
    assert fitted[1] == pytest.approx(a, rel=0.02)
    assert fitted[0] == pytest.approx(quartic, rel=0.05)


def test_the_branch_from_above_is_the_minimum_below_its_threshold():
    for K, gamma in ((2, 0.5), (3, 0.3), (4, 0.1)):
        theory = modes(np.array([1.0]), gamma, K, second_moment=mt.SECOND_MOMENT)[0]
        assert mt._upper(gamma, K) == pytest.approx(theory, abs=1e-4)
    assert mt._upper(0.5, 3) == 0.0


def test_a_toy_run_has_every_prediction_beside_its_measurement(tmp_path):
    chosen = experiment("mirror-transition")
    settings = chosen.configure(["steps=12", "replicas=8", "layers=2", "measurements=3"])
    run = chosen.run(settings, tmp_path / "out", progress=False)
    assert run.manifest["status"] == "finished"
    for quantity, case in (
        ("rank", "factors, γ=0.7"),
        ("order_parameter", "neurons, 0.95 γ_c"),
        ("order_parameter", "K=2, γ=0.500 from below"),
        ("collapsed_fraction", "saddle, η=0.3, full batch"),
        ("critical_decay", "K=2"),
    ):
        assert math.isfinite(last(quantity, case, run)), case
        assert math.isfinite(last(f"{quantity}_predicted", case, run)), case
