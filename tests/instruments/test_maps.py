"""Which modules are maps, how their tensors become rows, and the reasons given for the others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lawful.instruments.maps import (
    LinearMap,
    input_rows,
    linear_maps,
    output_rows,
    positions,
    unbatched,
    why_not,
)


def only(module: nn.Module, name: str = "m") -> LinearMap:
    (map,) = linear_maps(name, module)
    return map


class Conv1D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nf = 3
        self.weight, self.bias = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(3))


@pytest.mark.parametrize(
    ("module", "kind", "d_a", "d_b"),
    [
        (nn.Linear(5, 3), "linear", 5, 3),
        (nn.Linear(5, 3, bias=False), "linear", 5, 3),
        (Conv1D(), "linear", 5, 3),
        (nn.Conv1d(2, 3, 4), "conv", 8, 3),
        (nn.Conv2d(2, 3, (4, 5), bias=False), "conv", 40, 3),
        (nn.Embedding(10, 6), "embedding", 6, 6),
    ],
)
def test_shapes(module: nn.Module, kind: str, d_a: int, d_b: int) -> None:
    map = only(module)
    assert (map.kind, map.d_a, map.d_b) == (kind, d_a, d_b)
    assert map.weight().shape == ((d_b, d_a) if kind != "embedding" else (6, 10))
    assert not map.weight().requires_grad
    assert map.parameter is module.weight
    assert map.gradient(torch.ones_like(module.weight)).shape == map.weight().shape
    assert map.parameters == sum(p.numel() for p in module.parameters())


def test_attention_is_four_maps() -> None:
    attention = nn.MultiheadAttention(6, 2)
    q, k, v, out = linear_maps("att", attention)
    assert [m.name for m in (q, k, v, out)] == [
        "att.in_proj.q", "att.in_proj.k", "att.in_proj.v", "att.out_proj",
    ]  # fmt: skip
    packed = torch.cat([m.weight() for m in (q, k, v)])
    assert torch.equal(packed, attention.in_proj_weight)
    assert torch.equal(k.bias(), attention.in_proj_bias[6:12])
    assert torch.equal(v.gradient(packed), attention.in_proj_weight[12:])
    assert sum(m.parameters for m in (q, k, v, out)) == sum(
        p.numel() for p in attention.parameters()
    )
    assert all(
        m.bias() is None for m in linear_maps("att", nn.MultiheadAttention(6, 2, bias=False))
    )


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("blocks.3.attn.qkv", "blocks.3"),
        ("0", "0"),
        ("net.layer1.0.conv1", "net.layer1"),
        ("encoder.fc", "encoder"),
        ("head", ""),
    ],
)
def test_block(name: str, block: str) -> None:
    assert only(nn.Linear(2, 2), name).block == block


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "in 2 groups"),
        (nn.MultiheadAttention(6, 2, kdim=4), "dimensions of their own"),
        (nn.MultiheadAttention(6, 2, add_bias_kv=True), "extra key/value rows"),
        (nn.MultiheadAttention(6, 2, add_zero_attn=True), "extra key/value rows"),
    ],
)
def test_maps_that_cannot_be_observed_say_why(module: nn.Module, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        linear_maps("m", module)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.LayerNorm(3), "neuron by neuron"),
        (nn.BatchNorm2d(3), "neuron by neuron"),
        (nn.LSTM(3, 3), "recurrent"),
        (nn.GRU(3, 3), "recurrent"),
        (nn.ConvTranspose2d(3, 3, 2), "transposed"),
        (nn.Conv3d(3, 3, 2), "three-dimensional"),
        (nn.Bilinear(3, 3, 2), "bilinear"),
        (nn.EmbeddingBag(3, 3), "bags"),
        (nn.PReLU(), "not a known linear map"),
    ],
)
def test_the_reason_is_given_for_the_others(module: nn.Module, reason: str) -> None:
    assert linear_maps("m", module) == []
    assert reason in why_not(module)


def test_a_lazy_layer_asks_for_a_batch() -> None:
    with pytest.raises(ValueError, match=r"'m' has no weights yet: run one batch"):
        linear_maps("m", nn.LazyLinear(3))


# -- weights that are computed -------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.Conv2d(2, 3, 2)])
def test_reading_a_spectral_norm_leaves_its_buffers_alone(layer: nn.Module) -> None:
    """In training mode every access of the weight is a step of the power iteration."""
    module = parametrizations.spectral_norm(layer).train()
    x = torch.randn(4, 5) if isinstance(layer, nn.Linear) else torch.randn(4, 2, 5, 5)
    used: list[Tensor] = []
    handle = module.parametrizations.weight.register_forward_hook(lambda *a: used.append(a[2]))
    y = module(x)
    handle.remove()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    map = only(module)
    torch.testing.assert_close(map.weight(), used[-1].detach().flatten(1))
    input_rows(map, x, None, None)
    output_rows(map, y, None, None)
    positions(map, y, None)
    assert map.parameter is None
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(m.training for m in module.modules())


def test_a_weight_norm_is_read_as_it_is_used() -> None:
    module = parametrizations.weight_norm(nn.Linear(5, 3))
    assert torch.equal(only(module).weight(), module.weight.detach())


# -- rows ------------------------------------------------------------------------------------------

LINEAR = only(nn.Linear(4, 4))


def test_linear_rows_of_any_rank() -> None:
    vector, batch, sequence, grid = (
        torch.randn(s) for s in ((4,), (6, 4), (6, 5, 4), (6, 2, 3, 4))
    )
    assert input_rows(LINEAR, vector, None, None).shape == (1, 1, 4)
    assert input_rows(LINEAR, batch, 6, None).shape == (6, 1, 4)
    assert input_rows(LINEAR, sequence, 6, None).shape == (6, 5, 4)
    assert input_rows(LINEAR, grid, 6, None).shape == (6, 6, 4)
    assert positions(LINEAR, grid, 6) == (6, 6)
    assert unbatched(LINEAR, vector)
    assert not unbatched(LINEAR, batch)


def test_folded_samples_are_put_together_again() -> None:
    x = torch.randn(6, 8, 4)
    for folded in (x.flatten(0, 1), x.reshape(12, 4, 4), x.reshape(24, 2, 4)):
        assert torch.equal(input_rows(LINEAR, folded, 6, None), x)
    # A leading axis that the batch does not divide is left as it is.
    assert input_rows(LINEAR, torch.randn(7, 4), 3, None).shape == (7, 1, 4)


def test_sequence_first_rows() -> None:
    x = torch.randn(5, 6, 4)  # (T, n, d)
    want = x.transpose(0, 1)
    assert torch.equal(input_rows(LINEAR, x, 6, None, 1), want)
    assert torch.equal(input_rows(LINEAR, x.flatten(0, 1), 6, None, 1), want)
    assert torch.equal(input_rows(LINEAR, x[0], 6, None, 1), x[0].unsqueeze(1))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_conv_rows_multiply_to_its_output(n: int) -> None:
    conv = nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    map, x = only(conv), torch.randn(n, 2, 6, 8)
    y = conv(x)
    rows = input_rows(map, x, n, None)
    torch.testing.assert_close(rows @ map.weight().T + map.bias(), output_rows(map, y, n, None))
    assert positions(map, y, n) == (n, rows.shape[1])
    some = torch.tensor([3, 0])
    assert torch.equal(input_rows(map, x, n, some), rows[:, some])
    assert torch.equal(output_rows(map, y, n, some), output_rows(map, y, n, None)[:, some])


def test_an_image_without_a_batch_is_one_sample() -> None:
    conv = nn.Conv2d(2, 3, 2)
    map, x = only(conv), torch.randn(2, 5, 5)
    y = conv(x)
    assert unbatched(map, y)
    assert positions(map, y, None) == (1, 16)
    want = F.unfold(x.unsqueeze(0), 2).mT
    torch.testing.assert_close(input_rows(map, x, None, None), want)
    assert output_rows(map, y, None, None).shape == (1, 16, 3)


def test_frames_of_a_convolution_are_put_together_again() -> None:
    conv = nn.Conv1d(2, 3, 2)
    map, x = only(conv), torch.randn(4, 5, 2, 6)  # (n, frames, channels, length)
    rows = input_rows(map, x.flatten(0, 1), 4, None)
    assert rows.shape == (4, 25, 4)
    torch.testing.assert_close(rows[1, 5:10], input_rows(map, x[1], None, None)[1])
