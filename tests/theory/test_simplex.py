"""Neural collapse satisfies the six relations, and centring matters."""

from __future__ import annotations

import itertools

import pytest
import torch

from lawful.estimators.alignment import pearson
from lawful.theory.simplex import collapsed_layer, simplex_etf


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relations(h: torch.Tensor, W: torch.Tensor, g: torch.Tensor) -> dict[str, float]:
    H_a, G_b = h.T @ h / len(h), g.T @ g / len(g)
    a, b = (H_a, W.T @ G_b @ W, W.T @ W), (W @ H_a @ W.T, G_b, W @ W.T)
    named = {"a": dict(zip("HGZ", a, strict=True)), "b": dict(zip("HGZ", b, strict=True))}
    return {
        x + y + side: pearson(M[x], M[y])
        for side, M in named.items()
        for x, y in itertools.combinations("HGZ", 2)
    }


@pytest.mark.parametrize(("classes", "dimension"), [(2, 2), (10, 64), (10, 10)])
def test_simplex_is_equiangular_and_centred(classes: int, dimension: int) -> None:
    M = simplex_etf(classes, dimension, generator())
    gram = torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64)
    torch.testing.assert_close(M.T @ M, gram.fill_diagonal_(1.0))
    torch.testing.assert_close(M.sum(1), torch.zeros(dimension, dtype=torch.float64))


@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_collapse_implies_all_six_relations(scale: float) -> None:
    alignments = relations(*collapsed_layer(10, 64, generator(1), scale=scale))
    assert len(alignments) == 6
    assert min(alignments.values()) > 0.9999


def test_a_mean_hides_the_relations_until_it_is_removed() -> None:
    raw = []
    for seed in range(20):
        h, W, g = collapsed_layer(10, 64, generator(seed))
        mean = torch.randn(64, generator=generator(100 + seed), dtype=torch.float64)
        shifted = h + 2 * mean / mean.norm()
        raw.append(relations(shifted, W, g)["HZa"])
        assert relations(shifted - shifted.mean(0), W, g)["HZa"] == pytest.approx(1.0, abs=1e-6)
    assert sum(raw) / 20 == pytest.approx(0.12, abs=0.03)


def test_all_six_are_projectors_of_rank_one_less_than_the_classes() -> None:
    h, W, _ = collapsed_layer(10, 64, generator(2))
    s = torch.linalg.svdvals(W)
    assert float(s[0] / s[8]) == pytest.approx(1.0)
    assert float(s[9]) < 1e-12
    assert int(torch.linalg.matrix_rank(h.T @ h)) == 9


def test_too_few_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="dimension=9"):
        simplex_etf(10, 9, generator())
