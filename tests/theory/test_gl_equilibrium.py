"""The equilibrium of a GL(k) orbit: unique, where the drift stops, and that of real gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
