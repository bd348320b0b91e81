"""Attention whose projections are shown in a graph computes what torch computes, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lawful.instruments.attention import ShownInGraph, hides_in_graph
from lawful.instruments.maps import linear_maps
from lawful.instruments.tap import Scale, Tap


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Old torch (2.6 does) breaks the graph at a hook on a tensor inside: slower, and as right.
WHOLE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
MASK = torch.ones(5, 5).triu(1).bool()
ABSENT = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
# options of the module, what it is called with, and how
CALLS: dict[str, tuple[dict[str, Any], tuple[Tensor, ...], dict[str, Any]]] = {
    "itself": ({}, (draw(5, 2, 6),) * 3, {}),
    "without weights": ({}, (draw(5, 2, 6),) * 3, {"need_weights": False}),
    "batch first": ({"batch_first": True}, (draw(2, 5, 6),) * 3, {}),
    "another": ({"bias": False}, (draw(4, 2, 6), *(draw(5, 2, 6, seed=1),) * 2), {}),
    "three": ({}, (draw(4, 2, 6), draw(5, 2, 6, seed=1), draw(5, 2, 6, seed=2)), {}),
    "one sample": ({}, (draw(5, 6),) * 3, {"average_attn_weights": False}),
    "causal": (
        {},
        (draw(5, 2, 6),) * 3,
        {"attn_mask": MASK, "is_causal": True, "need_weights": False},
    ),
    "masked": ({}, (draw(5, 2, 6),) * 3, {"attn_mask": MASK, "key_padding_mask": ABSENT}),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_what_is_shown_is_what_torch_computes(name: str, compiled: bool) -> None:
    options, inputs, called_with = CALLS[name]
    torch.manual_seed(0)
    module = nn.MultiheadAttention(6, 2, **options)
    want = results(module, module, inputs, called_with)
    taps = [Tap(m, Scale("mean", 1), seed=0) for m in linear_maps("att", module)]
    for tap in taps:
        tap.active = tap.compiled = True
    shown, called = ShownInGraph(module, taps), module
    if compiled:
        torch._dynamo.reset()
        called = torch.compile(module, backend="aot_eager", fullgraph=WHOLE)  # type: ignore[assignment]
    got = results(module, called, inputs, called_with)
    assert [torch.equal(a, b) for a, b in zip(want, got, strict=True)] == [True] * len(want)
    rows = [tap.stream.rows for tap in taps]
    assert rows == [t[..., 0].numel() for t in inputs] + [inputs[0][..., 0].numel()]
    shown.remove()
    assert "forward" not in vars(module)


def results(
    module: nn.Module, called: nn.Module, inputs: tuple[Tensor, ...], called_with: dict[str, Any]
) -> list[Tensor]:
    """Outputs and gradients of one call."""
    module.zero_grad()
    seen, weights = called(*inputs, **called_with)
    seen.square().sum().backward()
    known = [seen.detach()] if weights is None else [seen.detach(), weights.detach()]
    return [*known, *(p.grad.clone() for p in module.parameters() if p.grad is not None)]


def test_a_mask_of_another_shape_is_refused_as_torch_does() -> None:
    module, x = nn.MultiheadAttention(6, 2), draw(5, 2, 6)
    ShownInGraph(module, [])
    with pytest.raises(AssertionError, match=r"\(2, 5\), got \(2, 4\)"):
        module(x, x, x, key_padding_mask=ABSENT[:, :4])


def test_only_a_forward_of_torch_is_shown() -> None:
    class Own(nn.MultiheadAttention):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    plain, replaced = nn.MultiheadAttention(6, 2), nn.MultiheadAttention(6, 2)
    replaced.forward = plain.forward  # type: ignore[method-assign]
    hidden = [hides_in_graph(m) for m in (plain, replaced, Own(6, 2), nn.Linear(6, 2))]
    assert hidden == [False, True, True, False]
