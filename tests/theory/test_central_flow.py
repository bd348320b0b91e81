"""The central flow against gradient descent itself, on a loss that can be written down."""

from dataclasses import dataclass

import numpy as np
import pytest

from lawful.theory.central_flow import complementarity, cycle, flow, gradient_flow, oscillation


@dataclass
class Valley:
    """L = ½ S(y) x² − b y,  S = s + a y: descending in y sharpens the valley in x."""

    w: np.ndarray
    s: float = 1.0
    a: float = 1.0
    b: float = 0.002

    @property
    def loss(self):
        x, y = self.w
        return 0.5 * (self.s + self.a * y) * x**2 - self.b * y

    @property
    def gradient(self):
        x, y = self.w
        return np.array([(self.s + self.a * y) * x, 0.5 * self.a * x**2 - self.b])

    def unstable(self, above):
        x, y = self.w
        H = np.array([[self.s + self.a * y, self.a * x], [self.a * x, 0.0]])
        values, vectors = np.linalg.eigh(H)
        keep = values > above
        return values[keep][::-1], vectors[:, keep][:, ::-1]

    def slope(self, u, v):
        # third derivatives: L_xxy = a, all others zero
        ux, uy, vx, vy = *u, *v
        return self.a * np.array([ux * vy + uy * vx, ux * vx])


def test_the_centre_of_gradient_descent_follows_the_flow():
    """S stays at 2/η, σ² = 2b/a, y stands still; gradient flow would sharpen for ever."""
    eta, steps = 1.0, 1000
    w = np.array([0.05, 0.98])
    path, losses = [w], []
    for _ in range(steps):
        w = w - eta * Valley(w).gradient
        path.append(w)
        losses.append(Valley(w).loss)
    moments = flow(Valley, np.array([0.0, 0.98]), eta, steps)
    end = moments[-1]
    late = np.array(path[200:])
    assert end.top[0] == pytest.approx(2 / eta, rel=1e-3)
    assert end.variance == pytest.approx(oscillation(0.002, 1.0), rel=1e-3)
    assert late[:, 1].mean() == pytest.approx(end.w[1], abs=0.02)
    assert (late[:, 0] ** 2).mean() == pytest.approx(end.variance, rel=0.05)
    # to first order in σ²: the loss itself is the small difference of two larger numbers
    assert np.mean(losses[200:]) == pytest.approx(end.loss, rel=0.1)
    free = gradient_flow(Valley, np.array([0.0, 0.98]), eta, steps)
    assert free[-1][1] > 2


def test_oscillation_and_sharpness_go_round_in_a_cycle():
    """Started 5 % off balance, gradient descent takes as long as the formula says, to 1 %."""
    b = 5e-4
    w, sharpness = np.array([1.05 * oscillation(b, 1.0) ** 0.5, 1.0]), []
    for _ in range(1000):
        w = w - Valley(w, b=b).gradient
        sharpness.append(1 + w[1])
    above = np.array(sharpness) > 2
    turns = np.flatnonzero(above[1:] & ~above[:-1])
    assert np.diff(turns).mean() == pytest.approx(cycle(1.0, b), rel=0.01)


def test_a_start_above_the_edge_costs_the_same_in_any_number_of_substeps():
    """The pulse that brings S back to 2/η has a variance ∝ 1/δ, and a mean that does not."""
    means = [
        np.mean([m.variance for m in flow(Valley, np.array([0.0, 1.03]), 1.0, 50, substeps=n)[:-1]])
        for n in (1, 2, 8)
    ]
    assert means[0] > 1.1 * oscillation(0.002, 1.0)
    assert means == pytest.approx([means[0]] * 3, rel=0.01)


def test_below_the_edge_it_is_gradient_flow():
    start = np.array([0.1, 0.0])
    moments, free = flow(Valley, start, 0.1, 20), gradient_flow(Valley, start, 0.1, 20)
    assert all(m.variance == 0 for m in moments)
    np.testing.assert_allclose(moments[-1].w, free[-1])


@pytest.mark.parametrize("k", [1, 2, 4])
def test_complementarity(k):
    rng = np.random.default_rng(k)
    for _ in range(5):
        slopes = rng.normal(size=(k, k, 12))
        slopes = slopes + slopes.transpose(1, 0, 2)
        B = np.tensordot(slopes, slopes, axes=(2, 2))
        C = rng.normal(size=(k, k))
        C = C + C.T
        Sigma = complementarity(B, C)
        gap = C + np.tensordot(B, Sigma, axes=2)
        assert np.linalg.eigvalsh(Sigma)[0] > -1e-9
        assert np.linalg.eigvalsh(gap)[0] > -1e-5
        assert abs(np.sum(Sigma * gap)) < 1e-5


def test_nothing_unstable_needs_no_oscillation():
    assert complementarity(np.ones((1, 1, 1, 1)), np.array([[2.0]])) == 0
    assert oscillation(-1.0, 2.0) == 0
