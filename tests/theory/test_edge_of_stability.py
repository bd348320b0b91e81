"""Every threshold is where the recursion's multiplier reaches 1, and not before."""

import pytest
import torch

from lawful.theory import edge_of_stability as edge

CASES = {
    "gradient descent": (edge.gradient_descent(0.1), {"beta": 0.0}),
    "heavy ball": (edge.heavy_ball(0.1, 0.9), {"beta": 0.9}),
    "dampened": (edge.heavy_ball(0.1, 0.5, dampening=0.2), {"beta": 0.5, "dampening": 0.2}),
    "nesterov": (edge.nesterov(0.1, 0.9), {"beta": 0.9, "nesterov": True}),
    "adam": (edge.adam(0.1, 0.9), {"beta": 0.9, "dampening": 0.9}),
    "adamw": (
        edge.adam(0.1, 0.9, weight_decay=0.5), {"beta": 0.9, "dampening": 0.9, "decay": 0.5}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_threshold_is_where_stability_ends(name):
    h, how = CASES[name]
    assert edge.multiplier(edge.momentum_step(0.999 * h, 0.1, **how)) < 1
    assert edge.multiplier(edge.momentum_step(h, 0.1, **how)) == pytest.approx(1, abs=1e-6)
    assert edge.multiplier(edge.momentum_step(1.001 * h, 0.1, **how)) > 1


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("heavy ball", {"momentum": 0.9}),
        ("nesterov", {"momentum": 0.9, "nesterov": True}),
        ("gradient descent", {}),
    ],
)
def test_torch_diverges_beyond_it_and_not_before(name, how):
    for factor, grows in ((0.99, False), (1.01, True)):
        x = torch.ones((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([x], lr=0.1, **how)
        for _ in range(4000):
            optimizer.zero_grad()
            (factor * CASES[name][0] * x**2 / 2).backward()
            optimizer.step()
        assert (abs(x.item()) > 1) is grows


def test_batch_sharpness():
    assert edge.batch_sharpness(0.1, 0.9) == pytest.approx(2)
    assert edge.batch_sharpness(0.1, 0.9, large=True) == pytest.approx(38)
