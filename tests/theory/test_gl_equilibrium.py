"""The equilibrium of a GL(k) orbit: unique, where the drift stops, and that of real gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import expm, solve_continuous_lyapunov

from lawful.theory import gl_equilibrium as gl
from lawful.theory.noise_equilibrium import equilibrium_two_signs

HOW = [{}, {"eta": 0.05, "batch": 4, "weight_decay": 0.02}]


def definite(rng: np.random.Generator, k: int) -> np.ndarray:
    root = rng.normal(size=(k, k))
    return root @ root.T + 0.1 * np.eye(k)


def point(k: int = 3, seed: int = 0) -> gl.GLPoint:
    rng = np.random.default_rng(seed)
    return gl.GLPoint(*(definite(rng, k) for _ in range(4)))


@pytest.mark.parametrize("how", HOW)
def test_nothing_drifts_at_the_equilibrium(how: dict) -> None:
    start = point()
    run = {"eta": 0.05, "batch": 1} | how
    there = start.moved(gl.gl_equilibrium(start, **run))
    before, after = (gl.gl_change(p, **run) for p in (start, there))
    assert np.abs(after).max() < 1e-12 * max(np.abs(before).max() / 1e-3, 1)
    assert np.abs(before).max() > 1e-3


@pytest.mark.parametrize("how", HOW)
def test_it_does_not_know_where_on_the_orbit_it_started(how: dict) -> None:
    """From any point of the orbit: the same charge, up to the rotation that has none."""
    start = point()
    elsewhere = start.moved(definite(np.random.default_rng(5), 3))
    charges = []
    for p in (start, elsewhere):
        charges.append(np.linalg.eigvalsh(p.moved(gl.gl_equilibrium(p, **how)).charge))
    assert charges[0] == pytest.approx(charges[1], abs=1e-10)


@pytest.mark.parametrize("how", HOW)
def test_one_channel_is_the_rescaling(how: dict) -> None:
    values = (2.0, 0.5, 7.0, 0.3)
    one = gl.GLPoint(*(np.array([[v]]) for v in values))
    expected = equilibrium_two_signs(*values, **how)
    assert math.log(gl.gl_equilibrium(one, **how)[0, 0]) / 2 == pytest.approx(expected)


def test_the_moments_turn_as_those_of_a_network() -> None:
    """y = WUx: per-sample gradients of the mixed network, against the formula of `moved`."""
    rng = np.random.default_rng(1)
    U, W, x, r = (rng.normal(size=s) for s in ((2, 5), (4, 2), (50, 5), (50, 4)))
    P = definite(rng, 2)

    def at(U: np.ndarray, W: np.ndarray) -> gl.GLPoint:
        G_U, G_W = np.einsum("na,ab,nc->nbc", r, W, x), np.einsum("na,nc,bc->nab", r, x, U)
        noise = [np.einsum("nbc,ndc->bd", G_U, G_U), np.einsum("nab,nac->bc", G_W, G_W)]
        return gl.GLPoint(U @ U.T, W.T @ W, *noise)

    values, Q = np.linalg.eigh(P)
    M = (Q * np.sqrt(values)) @ Q.T
    for found, expected in zip(
        vars(at(U, W).moved(P)).values(),
        vars(at(M @ U, W @ np.linalg.inv(M))).values(),
        strict=True,
    ):
        assert found == pytest.approx(expected)


def test_channels_without_noise_do_not_come_to_rest() -> None:
    start = point()
    silent = gl.GLPoint(start.into, start.out, np.diag([1.0, 1.0, 0.0]), start.noise_out)
    with pytest.raises(ValueError, match="on side 'in' neither noise nor decay acts on 1 of 3"):
        gl.gl_equilibrium(silent)
    assert np.isfinite(gl.gl_equilibrium(silent, weight_decay=0.1)).all()


def test_small_moves_relax_at_the_rates_of_the_modes() -> None:
    """The linearised drift of all k(k+1)/2 moves: its slowest and fastest are modes vvᵀ."""
    how, k = {"eta": 0.05, "batch": 4, "weight_decay": 0.001}, 3
    start = point()
    there = start.moved(gl.gl_equilibrium(start, **how))
    pairs = [(i, j) for i in range(k) for j in range(i, k)]

    def drift(delta: np.ndarray) -> np.ndarray:
        """δ̇ with {δ̇, C} = E[ΔQ] at e^δ."""
        moved = there.moved(expm(2 * delta))
        return solve_continuous_lyapunov(moved.into + moved.out, gl.gl_change(moved, **how))

    rates = np.empty((len(pairs), len(pairs)))
    for column, (i, j) in enumerate(pairs):
        delta = np.zeros((k, k))
        delta[i, j] = delta[j, i] = 1e-5
        change = (drift(delta) - drift(-delta)) / 2e-5
        rates[:, column] = [-change[pair] for pair in pairs]
    true = np.sort(np.linalg.eigvals(rates).real)
    steps, _ = gl.gl_relaxation(there, **how)
    assert list(1 / steps) == sorted(1 / steps)
    for rate in 1 / steps:
        assert np.min(np.abs(true / rate - 1)) < 1e-6
    assert true[[0, -1]] == pytest.approx([1 / steps[0], 1 / steps[-1]], rel=1e-6)


def test_idle_channels_and_silent_ones() -> None:
    """Without weights a channel has no size; without noise and decay it takes for ever."""
    weights, noise = np.diag([1.0, 0.0]), np.diag([1.0, 0.0])
    _, size = gl.gl_relaxation(gl.GLPoint(weights, weights, noise, noise), eta=0.1, batch=1)
    assert sorted(size) == pytest.approx([0, 2], abs=1e-9)
    still = gl.GLPoint(np.eye(2), np.eye(2), noise, noise)
    assert gl.gl_relaxation(still, eta=0.1, batch=1)[0].tolist() == [math.inf, pytest.approx(100)]
