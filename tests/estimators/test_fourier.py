"""Fourier power of weight rows: one wave, many, none, and the null of Gaussian rows."""

from __future__ import annotations

import pytest
import torch

from lawful.estimators.fourier import fourier_power, inverse_participation, null_participation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_row_has_no_waves(dtype: torch.dtype) -> None:
    """Not even those that round-off makes of it; a wave of 1e-3 beside it is seen."""
    row = torch.full((31,), 0.1, dtype=dtype)
    assert bool(fourier_power(row).isnan().all())
    assert bool(fourier_power(torch.zeros(31, dtype=dtype)).isnan().all())
    wave = row + 1e-3 * torch.sin(2 * torch.pi * 5 * torch.arange(31) / 31).to(dtype)
    assert inverse_participation(wave).item() == pytest.approx(1.0, abs=1e-3)


def test_shares_add_up_and_equal_waves_share() -> None:
    t = torch.arange(31, dtype=torch.float64) / 31
    row = sum(torch.cos(2 * torch.pi * k * t + k) for k in (1, 4, 9))
    assert isinstance(row, torch.Tensor)
    assert fourier_power(row).sum().item() == pytest.approx(1.0)
    assert inverse_participation(row).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("d", [3, 31])
def test_gaussian_rows_average_to_the_null(d: int) -> None:
    rows = torch.randn(20_000, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = inverse_participation(rows)
    error = float(found.std()) / len(rows) ** 0.5
    assert abs(float(found.mean()) - null_participation(d)) <= 3 * error + 1e-12


def test_even_lengths_have_no_known_null() -> None:
    with pytest.raises(ValueError, match="odd lengths"):
        null_participation(4)
