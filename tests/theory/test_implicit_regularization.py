"""Backward error by its order; the label-noise rate against the toy itself, run."""

from __future__ import annotations

import numpy as np
import pytest

from lawful.theory import implicit_regularization as implicit


def quartic(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian of ½(uv − 1)² + ¼u⁴."""
    u, v = theta
    r = u * v - 1
    g = np.array([r * v + u**3, r * u])
    return g, np.array([[v**2 + 3 * u**2, 2 * u * v - 1], [2 * u * v - 1, u**2]])


def flow(start: np.ndarray, time: float, eta: float) -> np.ndarray:
    """Fourth-order Runge–Kutta on the modified gradient (eta=0: on the gradient)."""

    def force(theta: np.ndarray) -> np.ndarray:
        return -implicit.modified_gradient(*quartic(theta), eta=eta)

    theta, h = start, time / 400
    for _ in range(400):
        a = force(theta)
        b = force(theta + h / 2 * a)
        c = force(theta + h / 2 * b)
        theta = theta + h / 6 * (a + 2 * b + 2 * c + force(theta + h * c))
    return theta


def test_descent_follows_the_modified_flow_one_order_further() -> None:
    """Slopes of log error against log η: 1 for the flow of L, 2 for the modified one (± 0.1)."""
    start, etas, errors = np.array([0.4, 1.8]), (0.02, 0.01, 0.005), []
    for eta in etas:
        theta = start
        for _ in range(round(1.0 / eta)):
            theta = theta - eta * quartic(theta)[0]
        errors.append([np.linalg.norm(theta - flow(start, 1.0, e)) for e in (0.0, eta)])
    slopes = np.polyfit(np.log(etas), np.log(errors), 1)[0]
    assert slopes == pytest.approx([1, 2], abs=0.1)


@pytest.mark.parametrize(
    ("u", "noise", "eta"), [(2.0, 0.5, 0.05), (1.6, 1.0, 0.1), (1.3, 0.1, 0.3)]
)
def test_the_rate_of_the_toy(u: float, noise: float, eta: float) -> None:
    """20,000 copies with u, v held on the valley by the noise they make: log D within 1 %."""
    rng, n = np.random.default_rng(0), 20_000
    steps = max(40, round(0.3 / implicit.label_noise_decay(u**2 + u**-2, noise, eta=eta)))
    U, W = np.full(n, u), np.full(n, 1 / u)
    kept = [float((U**2 - W**2).mean())]
    for _ in range(steps):
        r = U * W - 1 - np.sqrt(noise) * rng.normal(size=n)
        U, W = U - eta * r * W, W - eta * r * U
        kept.append(float((U**2 - W**2).mean()))
    theory = implicit.label_noise_path(u, 1 / u, noise, eta=eta, steps=steps)
    assert np.log(kept[-1] / kept[0]) == pytest.approx(np.log(theory[-1] / theory[0]), rel=0.01)


def test_the_small_rate_limit_is_the_force_of_the_trace() -> None:
    """Flow along (ησ²/4)Tr H, h = u² + v²: D shrinks by η · 2 · 2 · ησ²/4 a step."""
    strength = implicit.label_noise_strength(0.7, eta=1e-4)
    assert implicit.label_noise_decay(3.0, 0.7, eta=1e-4) == pytest.approx(
        1e-4 * 4 * strength, rel=1e-3
    )


def test_without_noise_nothing_moves_and_beyond_the_edge_nothing_is_said() -> None:
    assert implicit.label_noise_decay(3.0, 0.0, eta=0.1) == 0
    with pytest.raises(ValueError, match="not stable"):
        implicit.label_noise_decay(30.0, 1.0, eta=0.1)
    with pytest.raises(ValueError, match="start on the valley"):
        implicit.label_noise_path(1.0, 2.0, 1.0, eta=0.1, steps=1)
