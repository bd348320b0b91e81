"""Coverage of models, selection of layers and heads, and readings of awkward windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lawful.instruments.layers import LayerMoments, Part, parts, survey
from lawful.instruments.maps import linear_maps
from lawful.instruments.readings import Depth
from lawful.instruments.tap import Scale


class Loose(nn.Module):
    """Parameters on the container, a LoRA kept inside the layer, a list of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4))
        self.fc = Adapted(4, 4)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(3)) for _ in range(2)])


class Adapted(nn.Linear):
    def __init__(self, d_a: int, d_b: int) -> None:
        super().__init__(d_a, d_b)
        self.lora_A, self.lora_B = (
            nn.Parameter(torch.zeros(2, d_a)),
            nn.Parameter(torch.zeros(d_b, 2)),
        )
        self.inner = nn.Linear(d_b, d_b)


class Shared(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = self.one


ZOO: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False)),
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.ConvTranspose2d(4, 2, 2),
        nn.Conv1d(2, 2, 2), nn.Conv3d(1, 1, 1), nn.GroupNorm(1, 2), nn.PReLU(),
    ),
    "recurrent": lambda: nn.ModuleDict({"emb": nn.Embedding(5, 3), "lstm": nn.LSTM(3, 4)}),
    "transformer": lambda: nn.Transformer(8, 2, 1, 1, 12, batch_first=True),
    "attention of other widths": lambda: nn.ModuleDict(
        {"att": nn.MultiheadAttention(6, 2, kdim=4, vdim=3), "fc": nn.Linear(2, 2)}
    ),
    "attention with extra rows": lambda: nn.ModuleDict(
        {"att": nn.MultiheadAttention(6, 2, add_bias_kv=True), "fc": nn.Linear(2, 2)}
    ),
    "computed weights": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(3, 4)),
        parametrizations.spectral_norm(nn.Conv2d(2, 3, 2)),
        parametrizations.orthogonal(nn.Linear(3, 3)),
    ),
    "loose parameters": Loose,
    "one module, two names": Shared,
    "odd maps": lambda: nn.Sequential(nn.Bilinear(2, 2, 3), nn.EmbeddingBag(4, 2), nn.Linear(1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("all_but_one", [False, True])
def test_every_parameter_is_observed_or_accounted_for(name: str, all_but_one: bool) -> None:
    """Exactly: the sizes of the two lists add up to the model, and each holder is named."""
    model = ZOO[name]()
    maps, left = survey(model, "*")
    if all_but_one and len(maps) > 1:
        maps, left = survey(model, f"!{maps[0].name}")
    computed = {m.module for m in maps if m.parameter is None}
    sizes = [m.parameters for m in maps if m.module not in computed]
    sizes += [sum(p.numel() for p in module.parameters()) for module in computed]
    if not (name == "computed weights" and all_but_one):  # a computed weight has its own size
        total = sum(p.numel() for p in model.parameters())
        assert sum(sizes) + sum(u.parameters for u in left) == total
    assert all(u.reason and u.parameters for u in left)
    known = {m.name.split(".in_proj")[0] for m in maps} | {u.name for u in left}
    for holder in {n.rpartition(".")[0] for n, _ in model.named_parameters()}:
        place = holder.split(".parametrizations")[0]
        assert {place, place.removesuffix(".out_proj")} & known, holder


def test_the_reasons_are_those_of_the_model() -> None:
    reasons = {u.name: u.reason for u in survey(Loose(), "*")[1]}
    assert reasons == {
        "": "parameters of its own outside any layer",
        "fc": "beside its weight: lora_A, lora_B",
        "scales": "its parameters are used in a way that is not a known linear map",
    }
    assert [m.name for m in survey(Loose(), "*")[0]] == ["fc", "fc.inner"]
    grouped = survey(ZOO["convolutions"](), "*")[1]
    assert grouped[0].reason == "a convolution in 4 groups is 4 maps, not unfolded"


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        ("*", ["0", "1.a", "1.b"]),
        ("1.*", ["1.a", "1.b"]),
        (["0", "*.b"], ["0", "1.b"]),
        ("!1.a", ["0", "1.b"]),
        (["*", "!0"], ["1.a", "1.b"]),
        (["1.*", "!1.*", "1.b"], ["1.b"]),
    ],
)
def test_layers_are_chosen_by_globs(layers: Any, chosen: list[str]) -> None:
    inner = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    maps, left = survey(nn.Sequential(nn.Linear(2, 2), inner), layers)
    assert [m.name for m in maps] == chosen
    others = [u.name for u in left if u.reason == "not selected by layers="]
    assert sorted([*chosen, *others]) == ["0", "1.a", "1.b"]


@pytest.mark.parametrize("layers", ["fc9", ["0", "fc9"], "!fc9", "1"])
def test_a_glob_without_a_layer_is_an_error(layers: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    with pytest.raises(ValueError, match=r"layers='!?(fc9|1)' matches no layer; the layers are: 0"):
        survey(model, layers)


def test_a_part_of_an_attention_can_be_left_out() -> None:
    maps, left = survey(nn.ModuleDict({"att": nn.MultiheadAttention(4, 2)}), "!att.out_proj")
    assert [m.name for m in maps] == [f"att.in_proj.{p}" for p in "qkv"]
    assert [(u.name, u.parameters) for u in left] == [("att.out_proj", 20)]


def test_globs_that_leave_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"layers=\['!\*'\] leaves no layer"):
        survey(nn.Sequential(nn.Linear(2, 2)), ["!*"])


def test_a_model_without_a_linear_map_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to observe"):
        survey(nn.LSTM(2, 2), "*")


# -- heads ---------------------------------------------------------------------------------------


def named(name: str, module: nn.Module) -> Any:
    return linear_maps(name, module)[0]


def test_heads_of_each_kind() -> None:
    fused, square = named("att.qkv", nn.Linear(4, 12)), named("att.proj", nn.Linear(4, 4))
    assert [p.name for p in parts(fused, {"*qkv": 2})] == [
        f"att.qkv[{p}.{i}]" for p in "qkv" for i in (0, 1)
    ]
    assert parts(fused, {"*": 2})[3] == Part("att.qkv[k.1]", rows=slice(6, 8))
    assert parts(square, {"*": 2})[1] == Part("att.proj[1]", columns=slice(2, 4))
    query = named("att.query", nn.Linear(4, 4))
    assert parts(query, {"*": 2})[1] == Part("att.query[1]", rows=slice(2, 4))
    assert parts(query, {"*": {"first": slice(0, 1)}}) == [Part("att.query[first]", slice(0, 1))]
    assert parts(query, {"other": 2}) == []
    attention = linear_maps("a", nn.MultiheadAttention(4, 2))
    assert parts(attention[0], {}) == [
        Part("a.in_proj.q[0]", rows=slice(0, 2)),
        Part("a.in_proj.q[1]", rows=slice(2, 4)),
    ]
    assert parts(attention[3], {})[0] == Part("a.out_proj[0]", columns=slice(0, 2))
    assert parts(named("e", nn.Embedding(5, 4)), {"*": 2}) == []


@pytest.mark.parametrize("count", [3, 0, -1, 2.0, "2", None])
def test_heads_that_do_not_divide(count: Any) -> None:
    with pytest.raises(ValueError, match=r"heads=.* does not divide 'query', which has 4 inputs"):
        parts(named("query", nn.Linear(4, 4)), {"query": count})


@pytest.mark.parametrize("cut", [slice(4, 8), slice(2, 2), 3])
def test_slices_that_are_empty(cut: Any) -> None:
    with pytest.raises(ValueError, match=r"heads: 'x' of 'query' is .*: give a slice of its 4"):
        parts(named("query", nn.Linear(4, 4)), {"query": {"x": cut}})


def test_heads_of_a_layer_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"heads='qkv' matches no layer; the layers are: 0"):
        watching(nn.Sequential(nn.Linear(2, 2)), heads={"qkv": 2})


# -- readings -------------------------------------------------------------------------------------


def watching(model: nn.Module, **options: Any) -> LayerMoments:
    """Every layer of the model, hooks in place, a window open."""
    layers = LayerMoments(
        model, survey(model, "*")[0], Scale("mean", 1),
        **{"heads": {}, "rows": 4.0, "seed": 0, "batch_dim": 0, "normalise": False,
           "matrices": True, **options},
    )  # fmt: skip
    layers.hooks.place()
    layers.begin()
    layers.listen(True)
    return layers


def reading(model: nn.Module, x: Tensor) -> tuple[dict[tuple[str, str], float], list]:
    layers = watching(model)
    model(x).square().mean().backward()
    layers.end_of_batch({p: (0.1, 0.01) for p in model.parameters()}, 1)
    out, _, problems = layers.read(0, Depth.SPECTRA, decays=True)
    return {(m.layer, m.quantity): m.value for m in out}, problems


def test_a_batch_of_one_has_no_debiased_value() -> None:
    torch.manual_seed(0)
    values, problems = reading(
        nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(1, 4)
    )
    assert problems == []
    assert values["0", "samples"] == values["0", "clusters"] == 1
    assert math.isnan(values["0", "rga_b"])
    assert values["0", "required_samples"] == 16


def test_a_dead_layer_gives_no_number() -> None:
    """All pre-activations are negative: no activation leaves it and no gradient enters."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    values, problems = reading(model, torch.randn(32, 4))
    assert problems == []
    assert values["0", "trace_G_b"] == 0.0
    assert values["2", "trace_H_a"] == 0.0
    for layer in ("0", "2"):
        assert math.isnan(values[layer, "rga_a"])


def test_zero_weights_give_no_number() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    model[0].weight.data.zero_()
    layers = watching(model)
    (model(torch.randn(32, 4)) - 1.0).square().mean().backward()
    layers.end_of_batch({}, 1)
    out, _, problems = layers.read(0, Depth.SPECTRA, decays=False)
    values = {m.quantity: m.value for m in out}
    assert problems == []
    assert values["weight_norm2"] == 0.0
    assert math.isnan(values["rwa_b"])
    assert math.isnan(values["exponent_p"])


@pytest.mark.parametrize("poison", ["weight", "input"])
def test_numbers_that_are_not_finite_are_a_problem_and_not_a_reading(poison: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(8, 4)
    if poison == "input":
        x[3, 1] = math.nan
    else:
        model[0].weight.data[0, 0] = math.inf
    values, problems = reading(model, x)
    assert {layer for layer, _ in problems} >= {"0"}
    assert all("not finite" in message for _, message in problems)
    assert ("0", "rga_b") not in values


def test_the_gradient_of_a_shared_weight_belongs_to_no_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 2))
    model[2].weight = model[0].weight
    layers = watching(model)
    assert [layers.alone(tap) for tap in layers.taps] == [False, False, True]


def test_calls_of_one_pass_are_rows_of_the_same_samples() -> None:
    """A recurrent cell: 9 calls of 6 samples are 6 clusters of 9 rows, of which 4 are kept."""
    torch.manual_seed(0)

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(9):
                x = torch.tanh(self.fc(x))
            return x

    model = Cell()
    layers = watching(model)
    for _ in range(2):
        model(torch.randn(6, 3)).square().mean().backward()
    m = layers.taps[0].stream.moments()
    assert (m.rows, m.clusters, m.positions) == (108, 12, 9.0)
    assert m.kept_h.shape == m.kept_g.shape == (12, 4, 3)
    assert layers.full()
