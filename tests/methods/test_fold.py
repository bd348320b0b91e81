"""fold leaves a plain model and nothing else changed."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from lawful.methods import Groups, dcs, fold, spred, syre


def test_a_folded_model_pickles_and_a_plain_one_is_left_alone() -> None:
    model = nn.Linear(3, 2)
    weight = model.weight
    assert fold(model).weight is weight
    spred(model, "*")
    copy = pickle.loads(pickle.dumps(fold(model)))
    assert torch.equal(copy.weight, model.weight)


def test_syre_keeps_the_parameter_that_the_optimiser_holds() -> None:
    model = nn.Linear(3, 2)
    weight = model.weight
    fold(syre(model, sigma=0.1))
    assert model.weight is weight


@pytest.mark.parametrize("gradients", [True, False])
def test_frozen_factors_fold_to_a_frozen_parameter(gradients: bool) -> None:
    model = dcs(nn.Linear(3, 2), "weight", Groups())
    model.requires_grad_(False)
    with torch.set_grad_enabled(gradients):
        fold(model)
    assert isinstance(model.weight, nn.Parameter)
    assert not model.weight.requires_grad
    assert list(model.state_dict()) == ["bias", "weight"]


def test_folding_without_gradients_leaves_a_trainable_parameter() -> None:
    model = spred(nn.Linear(3, 2), "weight")
    with torch.no_grad():
        fold(model)
    assert isinstance(model.weight, nn.Parameter)
    assert model.weight.requires_grad


def test_reparametrisations_of_others_stay() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)), nn.Linear(2, 2))
    fold(spred(model, "1.weight"))
    assert parametrize.is_parametrized(model[0], "weight")
    assert not parametrize.is_parametrized(model[1])


def test_another_one_stacked_on_top_is_refused() -> None:
    class Double(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    model = spred(nn.Linear(3, 2), "weight")
    parametrize.register_parametrization(model, "weight", Double())
    with pytest.raises(ValueError, match="'weight' also has Double on top; remove that one first"):
        fold(model)
