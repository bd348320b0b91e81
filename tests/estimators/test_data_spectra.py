"""Spectra of known covariance, words of known frequency, chains of known correlation."""

import numpy as np
import pytest
import torch

from lawful.estimators.data_spectra import split_half_spectrum, token_correlation, zipf
from lawful.estimators.power_law import PowerLawWarning, power_law


def test_the_split_and_the_plain_spectrum_bracket_the_exponent():
    """a = 1.5, 300 samples of 1000 dimensions, mean of 6 draws; flat noise reads flat."""
    scale, ranks, found = torch.arange(1, 1001).double() ** -0.75, np.arange(1, 151), []
    for seed in range(6):
        draw = torch.Generator().manual_seed(seed)
        X = torch.randn(300, 1000, generator=draw, dtype=torch.float64) * scale
        plain = torch.linalg.svdvals(X).square()[:150]
        split = split_half_spectrum(X).mean(0)
        found.append([power_law(ranks, s, (3, 30)).exponent for s in (plain, split)])
    low, high = np.mean(found, 0)
    assert 1.4 < low < 1.5 < high < 1.6
    flat = torch.randn(300, 1000, generator=draw, dtype=torch.float64)
    spectrum = split_half_spectrum(flat).mean(0)
    with pytest.warns(PowerLawWarning):  # a slope of nothing: any bend is more than 0.3 of it
        assert power_law(ranks, spectrum, (3, 120)).exponent == pytest.approx(0, abs=0.05)
    assert float(spectrum.mean()) == pytest.approx(1, abs=0.05)


def test_the_split_needs_samples():
    with pytest.raises(ValueError, match="at least 4 rows"):
        split_half_spectrum(torch.randn(3, 5))


def test_zipf():
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, 2001)
    words = rng.choice(2000, size=300_000, p=p / p.sum())
    found = power_law(np.arange(1, 2001), zipf(words.tolist()), (5, 500))
    assert found.exponent == pytest.approx(1.0, abs=0.02)
    with pytest.raises(ValueError, match="no token"):
        zipf([])


def test_correlations_of_a_markov_chain():
    """Two states that flip with probability q: ‖C(t)‖² = ¼(1 − 2q)^2t; independent ones: 0."""
    rng = np.random.default_rng(0)
    q, T = 0.1, 400_000
    chain = torch.as_tensor(np.cumsum(rng.random(T) < q) % 2)
    found = token_correlation(chain, (1, 2, 5))
    expected = 0.25 * (1 - 2 * q) ** (2 * torch.tensor([1.0, 2.0, 5.0]).double())
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0)
    free = token_correlation(torch.as_tensor(rng.integers(4, size=T)), (1, 3))
    assert float(free.abs().max()) < 1e-5
    with pytest.raises(ValueError, match="lag=0"):
        token_correlation(chain, (0,))
