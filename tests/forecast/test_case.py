"""What cannot be forecast is refused in one sentence; what can is left as it was."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lawful
from lawful.forecast import FAMILIES, Forecast, predict
from lawful.symmetry import SymmetryError

G = torch.Generator().manual_seed(0)
X = torch.randn(64, 4, generator=G)
Y = torch.randint(3, (64,), generator=G)
RUN = {"lr": 0.1, "batch_size": 8, "samples": 32}


def net(*middle: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), *middle, nn.Linear(6, 3))


class Apply(nn.Module):
    def __init__(self, f) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


SETTINGS = {
    "optimizer='lion' is not known here; use one of sgd, adam, adamw": {"optimizer": "lion"},
    "lr=0.0: give a finite number > 0": {"lr": 0.0},
    "lr=nan: give a finite number > 0": {"lr": math.nan},
    r"weight_decay=-0.1 at lr=0.1: their product must be in \[0, 1\)": {"weight_decay": -0.1},
    r"weight_decay=20.0 at lr=0.1: their product": {"weight_decay": 20.0},
    r"momentum=1.0: give a number in \[0, 1\)": {"momentum": 1.0},
    "momentum is an option of sgd": {"momentum": 0.9, "optimizer": "adam"},
    "batch_size=0: give a whole number": {"batch_size": 0},
    "steps=0: give a whole number": {"steps": 0},
    "samples=4: noise cannot be measured on fewer than 8": {"samples": 4},
}


@pytest.mark.parametrize("says", SETTINGS)
def test_settings_that_cannot_be(says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        predict(net(), (X, Y), F.cross_entropy, **(RUN | SETTINGS[says]))
    assert "\n" not in str(caught.value)


HOLED = X.clone()
HOLED[-1] = math.nan


@pytest.mark.parametrize(
    ("says", "data", "loss"),
    [
        ("data is a dict", {"x": X}, F.cross_entropy),
        (r"data has leading dimensions \[32, 64\]", (X, Y[:32]), F.cross_entropy),
        (r"data has leading dimensions \[4\]", (X[:4], Y[:4]), F.cross_entropy),
        (r"fails on samples of shape \[\(3,\)\]", (X[:, :3], Y), F.cross_entropy),
        ("loss must return one number; reduce it", (X, Y), lambda f, y: f),
        ("the loss is nan", (X * math.inf, Y), F.cross_entropy),
        (
            "data holds NaN",
            (HOLED, Y),
            F.cross_entropy,
        ),
    ],
)
def test_data_and_losses_that_cannot_be(says: str, data: object, loss: object) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        predict(net(), data, loss, **RUN)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def unused() -> nn.Module:
    model = net()
    model[0].spare = nn.Parameter(torch.zeros(2))
    return model


def quantised() -> nn.Module:
    model = net()
    model[0].weight = nn.Parameter(torch.zeros(6, 4, dtype=torch.int8), requires_grad=False)
    return model


MODELS = {
    "dropout p=0.1 is active in 1": lambda: net(nn.Dropout(0.1)),
    "is random": lambda: net(Apply(lambda x: x + torch.randn_like(x))),
    "round": lambda: net(nn.ReLU(), Apply(torch.round)),
    "argmax": lambda: net(Apply(lambda x: F.one_hot(x.argmax(-1), 6).to(x.dtype))),
    "gets no gradient": lambda: net(Apply(torch.detach)),
    "no parameter requires a gradient": lambda: net().requires_grad_(False),
    "int8 and has no gradient": quantised,
    "spare gets no gradient": unused,
}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("says", MODELS)
def test_models_that_cannot_be_are_refused_whatever_the_optimiser(
    says: str, optimizer: str
) -> None:
    with pytest.raises(SymmetryError, match=says) as caught:
        predict(MODELS[says](), (X, Y), F.cross_entropy, optimizer=optimizer, **RUN)
    assert "\n" not in str(caught.value)


def test_frozen_parameters_stay_out() -> None:
    """Charges that a frozen tensor takes part in do not move as forecast: none is given."""
    model = net(nn.ReLU())
    model[0].weight.requires_grad_(False)
    found = predict(model, (X, Y), F.cross_entropy, **RUN)
    assert not [f for f in found if f.where.startswith("rescaling")]
    assert [f for f in found if f.name == "translation_steps"]
    assert next(f.value for f in found if f.name == "hessian_trace") > 0


def test_shared_parameters_and_integer_buffers_are_handled() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.again = nn.Linear(4, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 3)
            self.register_buffer("count", torch.tensor(3))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.again(torch.relu(self.read(x))))
            return self.head(torch.relu(self.again(h)))

    found = predict(Twice(), (X, Y), F.cross_entropy, weight_decay=1e-3, **RUN)
    moved = [f for f in found if f.name == "equilibrium_shift"]
    assert moved
    assert all(math.isfinite(f.value) for f in moved)


def test_the_model_and_the_random_state_are_left_alone() -> None:
    model = net(nn.BatchNorm1d(6), nn.ReLU())
    before = {n: t.clone() for n, t in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    predict(model, (X, Y), F.cross_entropy, weight_decay=1e-3, **RUN)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_same_seed_gives_the_same_forecasts() -> None:
    how = {"weight_decay": 1e-3, **RUN}
    one, two, other = (
        predict(net(nn.ReLU()), (X, Y), F.cross_entropy, seed=s, **how) for s in (0, 0, 1)
    )
    assert [f.value for f in one] == [f.value for f in two]
    assert [f.value for f in one] != [f.value for f in other]


def test_a_loss_that_sums_over_the_batch_is_measured_by_batches() -> None:
    """Its gradient noise is S times that of the mean: λ* is a ratio and does not change much."""

    def total(f: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(f, y, reduction="sum")

    x, y = X.repeat(8, 1), Y.repeat(8)
    shifts = []
    for loss in (F.cross_entropy, total):
        found = predict(net(nn.ReLU()), (x, y), loss, lr=0.01, batch_size=8, samples=512)
        shifts += [f.value for f in found if f.name == "equilibrium_shift"]
    assert shifts[1] == pytest.approx(shifts[0], abs=0.15)


def test_a_forecast_is_one_json_object_and_every_family_answers() -> None:
    found = lawful.predict(net(nn.ReLU()), (X, Y), F.cross_entropy, **RUN)
    assert {f.theory for f in found} <= set(FAMILIES)
    for f in found:
        document = json.loads(json.dumps(f.to_json(), allow_nan=False))
        assert document["applies"] in ("yes", "partly", "no")
        assert f.sentence.endswith(".")
        assert f.assumption.endswith(".")
    with pytest.raises(ValueError, match="applies='maybe'"):
        Forecast("t", "n", "", 1.0, "1", "s", "a", "maybe")
