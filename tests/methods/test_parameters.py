"""Addresses, refusals, and every round trip that a reparametrised model must survive."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lawful.methods import Groups, LowRank, Sparse, Tied, dcs, fold, parameter_groups, spred, syre
from lawful.methods.parameters import find, reparametrised

Method = Callable[[nn.Module], nn.Module]

METHODS: dict[str, Method] = {
    "spred": lambda m: spred(m, "*.weight"),
    "spred-4": lambda m: spred(m, ["0.*", "4.bias"], depth=4),
    "dcs-sparse": lambda m: dcs(m, "*", Sparse()),
    "dcs-groups": lambda m: dcs(m, "*.weight", Groups(dim=0)),
    "dcs-rank": lambda m: dcs(m, "*.weight", LowRank()),
    "dcs-tied": lambda m: dcs(m, "0.*", Tied([(0, 1), (2, 3)])),
    "syre": lambda m: syre(m, sigma=0.1, spread=0.5),
}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 3)
    ).double()


X = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def step(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    model(X).square().sum().backward()
    optimiser.step()


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]


def test_the_function_is_kept_on_the_way_in_and_out(method: Method) -> None:
    model = network()
    names, output = [n for n, _ in model.named_parameters()], model(X).detach()
    method(model)
    assert torch.allclose(model(X), output, rtol=1e-12, atol=1e-12)
    optimiser = torch.optim.SGD(parameter_groups(model, 0.1), lr=0.01)
    step(model, optimiser)
    trained = model(X).detach()
    assert not torch.allclose(trained, output)
    assert fold(model) is model
    assert torch.equal(model(X), trained)
    assert sorted(n for n, _ in model.named_parameters()) == sorted(names)
    assert not list(model.buffers())
    assert type(model[0]) is nn.Conv2d
    network(5).load_state_dict(model.state_dict())


def test_state_dict_round_trips(method: Method) -> None:
    """Into another model under the same method, through bytes, without pickled code."""
    model, twin = method(network(0)), method(network(1))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(twin(X), model(X))


def test_optimiser_state_round_trips(method: Method) -> None:
    """A run stopped and taken up again in new objects goes on bit for bit."""
    model = method(network())
    optimiser = torch.optim.Adam(parameter_groups(model, 0.1, rest=0.01), lr=0.01)
    for _ in range(3):
        step(model, optimiser)
    twin = method(network(1))
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    other = torch.optim.Adam(parameter_groups(twin, 0.1, rest=0.01), lr=0.01)
    other.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for _ in range(3):
        step(model, optimiser)
        step(twin, other)
    assert torch.equal(model(X), twin(X))


def test_a_deep_copy_is_independent(method: Method) -> None:
    model = method(network())
    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), model(X))
    before = model(X).detach()
    step(twin, torch.optim.SGD(twin.parameters(), lr=0.1))
    assert torch.equal(model(X), before)
    assert not torch.equal(twin(X), before)
    assert torch.equal(fold(model)(X), before)


def test_it_compiles(method: Method) -> None:
    model = method(network())
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    loss, same = compiled(X).square().sum(), model(X).square().sum()
    assert float(loss.detach()) == pytest.approx(float(same.detach()), rel=1e-12)
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    wanted = torch.autograd.grad(same, parameters, allow_unused=True)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine is None or torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)


def test_assigning_a_weight_goes_through_the_factors(method: Method) -> None:
    model = method(network())
    for name, owner, leaf in reparametrised(model):
        value = torch.randn_like(getattr(owner, leaf))
        setattr(owner, leaf, value)
        assert torch.allclose(getattr(owner, leaf), value, atol=1e-12), name


def test_float32_keeps_its_dtype_and_function(method: Method) -> None:
    model = network().float()
    before = model(X.float()).detach()
    method(model)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert float((model(X.float()).detach() - before).norm() / before.norm()) < 1e-6


def test_globs_and_lists_select_in_the_order_of_the_model() -> None:
    model = network()
    assert [a.name for a in find(model, ["4.*", "0.weight"], "t")] == [
        "0.weight",
        "4.weight",
        "4.bias",
    ]
    assert [a.name for a in find(nn.Linear(2, 2), "weight", "t")] == ["weight"]


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def frozen() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)


def integer() -> nn.Module:
    model = nn.Sequential(nn.Module())
    model[0].weight = nn.Parameter(torch.arange(3), requires_grad=False)
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tied, r"'0\.weight' is tied to '1\.weight'; untie"),
        (frozen, r"'0\.\w+' is frozen .*unfreeze it or leave it out"),
        (integer, r"has dtype torch\.int64"),
        (lambda: nn.Sequential(nn.LSTM(2, 2)), "use its Cell form"),
        (lambda: nn.Sequential(nn.LazyLinear(2)), "one forward pass of the lazy module"),
        (lambda: nn.Sequential(nn.ReLU()), "selects no parameter; the model has none"),
    ],
    ids=["tied", "frozen", "integer", "recurrent", "lazy", "empty"],
)
def test_what_cannot_be_replaced_is_refused(
    method: str, make: Callable[[], nn.Module], message: str
) -> None:
    apply = {
        "spred": lambda m: spred(m, "*"),
        "dcs": lambda m: dcs(m, "*", Sparse()),
        "syre": lambda m: syre(m, sigma=0.1),
    }[method.split("-")[0]]
    model = make()
    with pytest.raises(ValueError, match=message):
        apply(model)
    assert reparametrised(model) == []


def test_a_second_method_on_the_same_parameter_is_refused() -> None:
    model = spred(network(), "0.weight")
    with pytest.raises(ValueError, match=r"'0\.weight' is reparametrised already; call fold"):
        syre(model, "0.*", sigma=0.1)
    with pytest.raises(ValueError, match=r"names='1\.weight' selects no parameter; .* 0\.bias"):
        syre(model, "1.weight", sigma=0.1)
    syre(model, "4.*", sigma=0.1)  # another one is no problem
    assert len(reparametrised(model)) == 3
    assert reparametrised(fold(model)) == []
