"""The decay falls on the factors alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lawful.methods import Tied, dcs, parameter_groups, spred


def test_every_trained_parameter_is_in_one_group() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2))
    spred(model, "0.weight")
    dcs(model, "1.weight", Tied([(0, 1)]))
    model[2].weight.requires_grad_(False)
    factors, others = parameter_groups(model, 0.3, rest=0.01)
    assert (factors["weight_decay"], others["weight_decay"]) == (0.3, 0.01)
    # Two factors each; the symmetric part of the tied weight is not a factor.
    assert len(factors["params"]) == 4
    kept = model[1].parametrizations.weight.original0
    assert any(p is kept for p in others["params"])
    every = {id(p) for p in model.parameters() if p.requires_grad}
    listed = [id(p) for group in (factors, others) for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == every


def test_without_anything_else_there_is_one_group() -> None:
    groups = parameter_groups(spred(nn.Linear(2, 2), "*"), 0.1)
    assert [len(g["params"]) for g in groups] == [4]
    torch.optim.AdamW(groups)


def test_wrong_arguments_are_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="apply one of them first"):
        parameter_groups(model, 0.1)
    spred(model, "weight")
    with pytest.raises(ValueError, match=r"decay=-0\.1: a weight decay is a number ≥ 0"):
        parameter_groups(model, -0.1)
    with pytest.raises(ValueError, match="rest=nan"):
        parameter_groups(model, 0.1, rest=float("nan"))
