"""What is recorded equals float64 autograd, one sample at a time, for every way of calling a map.

The reference is independent: each sample alone through a float64 copy, a zero added at every
watched output (its gradient is g_b) and, for dense maps, at every watched input (its gradient is
g_a through that layer only), convolutions through `F.unfold`, attention written out by hand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lawful
from lawful.estimators.moments import normalised
from lawful.instruments.maps import linear_maps
from lawful.instruments.tap import Hooks, Scale, Tap

Rows = dict[str, dict[str, list[Tensor]]]
Batch = tuple[Any, Tensor]


# -- the reference ----------------------------------------------------------------------------


def brute_force(
    model: nn.Module,
    samples: Iterable[Batch],
    loss: Callable[[Any, Tensor], Tensor],
    names: Mapping[str, str],
) -> dict[str, dict[str, np.ndarray]]:
    """{layer: {H_a, G_a, H_b, G_b}} in float64 from one sample at a time.

    names: {module of `model`: name of the layer as recorded}. A sample is a batch of one.
    """
    model = copy.deepcopy(model).double()
    rows: Rows = {name: {q: [] for q in ("h_a", "g_a", "h_b", "g_b")} for name in names.values()}
    for x, y in samples:
        seen: list[tuple[str, nn.Module, Tensor, Tensor | None, Tensor, Tensor]] = []
        handles = [_spy(model.get_submodule(path), name, seen) for path, name in names.items()]
        loss(model(_double(x)), _double(y)).backward()
        for pair in handles:
            for handle in pair:
                handle.remove()
        for name, module, h, to_input, out, to_output in seen:
            _add(rows[name], module, h, to_input, out, to_output)
    return {name: {_moment(q): _second(r) for q, r in of.items() if r} for name, of in rows.items()}


def _spy(module: nn.Module, name: str, seen: list) -> tuple[Any, Any]:
    inputs: list[tuple[Tensor, Tensor | None]] = []

    def before(_: nn.Module, args: tuple) -> tuple:
        h = args[0]
        zero = torch.zeros_like(h, requires_grad=True) if h.is_floating_point() else None
        inputs.append((h.detach().clone(), zero))
        return args if zero is None else (h + zero, *args[1:])

    def after(_: nn.Module, args: tuple, out: Tensor) -> Tensor:
        zero = torch.zeros_like(out, requires_grad=True)
        h, to_input = inputs.pop()
        seen.append((name, module, h, to_input, out.detach().clone(), zero))
        return out + zero

    return module.register_forward_pre_hook(before), module.register_forward_hook(after)


def _add(
    rows: dict[str, list[Tensor]],
    module: nn.Module,
    h: Tensor,
    to_input: Tensor | None,
    out: Tensor,
    to_output: Tensor,
) -> None:
    assert to_output.grad is not None
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        h_b, g_b = (t.flatten(2).mT.flatten(0, 1) for t in (out, to_output.grad))
        patches, W = _unfold(module, h), module.weight.detach().flatten(1)
        bias = 0 if module.bias is None else module.bias.detach()
        torch.testing.assert_close(patches @ W.T + bias, h_b)
        found = {"h_a": patches, "h_b": h_b, "g_b": g_b, "g_a": g_b @ W}
    else:
        flat = lambda t: t.reshape(-1, t.shape[-1])  # noqa: E731
        found = {"h_b": flat(out), "g_b": flat(to_output.grad)}
        if to_input is not None:
            found |= {"h_a": flat(h), "g_a": flat(to_input.grad)}
    for q, values in found.items():
        rows[q].append(values)


def _unfold(conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    two = lambda v, one: (one, *v) if isinstance(conv, nn.Conv1d) else v  # noqa: E731
    kernel, stride = two(conv.kernel_size, 1), two(conv.stride, 1)
    dilation, x = two(conv.dilation, 1), x.unsqueeze(2) if x.dim() == 3 else x
    if conv.padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        x = F.pad(x, (total[1] // 2, -(-total[1] // 2), total[0] // 2, -(-total[0] // 2)))
        padding: tuple[int, ...] = (0, 0)
    else:
        padding = (0, 0) if conv.padding == "valid" else two(conv.padding, 0)
    if conv.padding_mode != "zeros":
        x, padding = F.pad(x, [padding[1]] * 2 + [padding[0]] * 2, mode=conv.padding_mode), (0, 0)
    return F.unfold(x, kernel, dilation, padding, stride).mT.flatten(0, 1)


def _moment(q: str) -> str:
    return q[0].upper() + q[1:]


def _second(rows: list[Tensor]) -> np.ndarray:
    x = torch.cat(rows)
    return (x.T @ x / len(x)).numpy()


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def one_by_one(batches: Iterable[Batch]) -> list[Batch]:
    """Batches of one sample each."""
    return [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(len(x))]


# -- the architectures --------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model, its batches, and how the training loop around it uses the loss.

    names:     {path in the reference model: layer as recorded}; the model itself when equal.
    reference: builds the model the reference runs, from the trained one (default: itself).
    """

    model: Callable[[], nn.Module]
    batches: Callable[[], list[Batch]]
    names: dict[str, str]
    reference: Callable[[nn.Module], nn.Module] = lambda m: m
    loss: Callable[..., Tensor] = F.cross_entropy
    options: dict[str, Any] = field(default_factory=dict)
    samples: Callable[[list[Batch]], list[Batch]] = one_by_one


def classes(*shape: int, n: int = 12, k: int = 3, count: int = 1) -> Callable[[], list[Batch]]:
    return lambda: [(torch.randn(n, *shape), torch.randint(k, (n,))) for _ in range(count)]


def tokens(n: int = 6, T: int = 5, V: int = 11) -> Callable[[], list[Batch]]:
    return lambda: [(torch.randint(V, (n, T)), torch.randint(V, (n, T)))]


def token_loss(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


def token_sum(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), y.flatten(), reduction="sum")


def same(*names: str) -> dict[str, str]:
    return {n: n for n in names}


def mlp(bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(7, 9, bias), nn.Tanh(), nn.Linear(9, 3, bias))


def in_place() -> nn.Module:
    return nn.Sequential(
        nn.Linear(7, 9), nn.ReLU(inplace=True), nn.Linear(9, 8), nn.ReLU(True), nn.Linear(8, 3)
    )


def conv2d(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, **options), nn.ReLU(), nn.Conv2d(4, 3, (1, 2), bias=False), Mean()
    )


def conv1d(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv1d(2, 5, 3, **options), nn.Tanh(), Mean(), nn.Linear(5, 3))


class Mean(nn.Module):
    """Average over every position."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + torch.tanh(self.branch(x))
        return self.last(x)


class Twice(nn.Module):
    """One module called twice, and two modules that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.right.weight = self.left.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(torch.tanh(self.again(x)))
        return self.right(torch.tanh(self.left(x)))


class Fused(nn.Module):
    """A tiny language model with a fused qkv and an output projection."""

    def __init__(self, E: int = 8, heads: int = 2, V: int = 11) -> None:
        super().__init__()
        self.emb, self.qkv = nn.Embedding(V, E), nn.Linear(E, 3 * E)
        self.proj, self.head, self.heads = nn.Linear(E, E, bias=False), nn.Linear(E, V), heads

    def forward(self, idx: Tensor) -> Tensor:
        x = self.emb(idx)
        n, T, E = x.shape
        q, k, v = (
            t.view(n, T, self.heads, -1).transpose(1, 2) for t in self.qkv(x).split(E, dim=-1)
        )
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(x + self.proj(z.transpose(1, 2).reshape(n, T, E)))


class TiedHead(Fused):
    """The embedding is the head."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.emb.weight


class Torch(nn.Module):
    """torch's own attention: self-attention, then cross-attention to a projection of the input."""

    def __init__(self, batch_first: bool, cross: bool, bias: bool = True) -> None:
        super().__init__()
        self.batch_first, self.cross = batch_first, cross
        self.memory, self.out = nn.Linear(8, 8), nn.Linear(8, 3)
        self.att = nn.MultiheadAttention(8, 2, batch_first=batch_first, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.memory(x)[:, :-1] if self.cross else x
        if not self.batch_first:
            x, memory = x.transpose(0, 1), memory.transpose(0, 1)
        z, _ = self.att(x, memory, memory, need_weights=False)
        z = z if self.batch_first else z.transpose(0, 1)
        return self.out(z).mean(1)


class Projections(nn.Module):
    """Multi-head attention by hand, with the weights of a `nn.MultiheadAttention`."""

    def __init__(self, of: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, E = of.num_heads, of.embed_dim
        bias = of.in_proj_bias is not None
        self.q, self.k, self.v, self.o = (nn.Linear(E, E, bias) for _ in range(4))
        with torch.no_grad():
            for i, part in enumerate((self.q, self.k, self.v)):
                part.weight.copy_(of.in_proj_weight[i * E : (i + 1) * E])
                if bias:
                    part.bias.copy_(of.in_proj_bias[i * E : (i + 1) * E])
            self.o.load_state_dict(of.out_proj.state_dict())
        self.batch_first = of.batch_first

    def forward(self, q: Tensor, k: Tensor, v: Tensor, **_: Any) -> tuple[Tensor, None]:
        if not self.batch_first:
            q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = split(self.q(q)), split(self.k(k)), split(self.v(v))
        p = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        z = self.o((p @ v).transpose(1, 2).flatten(2))
        return (z if self.batch_first else z.transpose(0, 1)), None


def by_hand(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    model.att = Projections(model.att)
    return model


ATTENTION = {f"att.{p}": f"att.in_proj.{p}" for p in "qkv"} | {"att.o": "att.out_proj"}


class Encoder(nn.Module):
    """torch's own encoder layer, in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[:, 0])


class EncoderByHand(nn.Module):
    def __init__(self, of: Encoder) -> None:
        super().__init__()
        layer = copy.deepcopy(of.layer)
        self.att, self.out = Projections(layer.self_attn), copy.deepcopy(of.out)
        self.linear1, self.linear2 = layer.linear1, layer.linear2
        self.norm1, self.norm2 = layer.norm1, layer.norm2

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.att(x, x, x)[0])
        return self.out(self.norm2(x + self.linear2(torch.relu(self.linear1(x))))[:, 0])


ENCODER = {
    **{f"att.{p}": f"layer.self_attn.in_proj.{p}" for p in "qkv"},
    "att.o": "layer.self_attn.out_proj",
    "linear1": "layer.linear1",
    "linear2": "layer.linear2",
    "out": "out",
}


class LoRA(nn.Module):
    """A frozen linear layer with a trained low-rank update beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.base = nn.Linear(6, 6), nn.Linear(6, 6)
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)
        self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.base(x) + self.up(self.down(x))


class Conv1D(nn.Module):
    """The linear layer of GPT-2 code: weight (d_a, d_b)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(
            *x.shape[:-1], self.nf
        )


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(7, 8), nn.Linear(8, 3), reentrant
        self.inner = nn.Sequential(nn.Linear(8, 9), nn.ReLU(inplace=True), nn.Linear(9, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.reentrant is None:
            return self.last(self.inner(x))
        return self.last(checkpoint(self.inner, x, use_reentrant=self.reentrant))


def not_checkpointed(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    model.reentrant = None
    return model


class Folded(nn.Module):
    """Frames of a sample are folded into the batch before the layers see them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.out = nn.Conv1d(2, 4, 3), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        frames = torch.tanh(self.conv(x.flatten(0, 1))).mean(2)
        return self.out(torch.tanh(self.fc(frames)).unflatten(0, x.shape[:2]).mean(1))


class Grid(nn.Module):
    """A linear layer on a four-dimensional tensor (n, height, width, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(x)).mean((1, 2)))


class Sequence(nn.Module):
    """A sequence-first model: (T, n, d) in, (n, 3) out, folding T and n on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.flat, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        T, n, _ = x.shape
        h = torch.tanh(self.mix(x)).reshape(T * n, -1)
        return self.out(torch.tanh(self.flat(h)).view(T, n, -1).mean(0))


def columns(batches: list[Batch]) -> list[Batch]:
    """One sample at a time of a sequence-first batch."""
    return [(x[:, i : i + 1], y[i : i + 1]) for x, y in batches for i in range(x.shape[1])]


def sequence_batches() -> list[Batch]:
    return [(torch.randn(5, 8, 4), torch.randint(3, (8,)))]


def one_vector() -> list[Batch]:
    return [(torch.randn(7), torch.tensor(1))]


CASES = {
    "mlp": Case(mlp, classes(7), same("0", "2")),
    "mlp without bias": Case(lambda: mlp(False), classes(7), same("0", "2")),
    "mlp in float64": Case(
        lambda: mlp().double(),
        lambda: [(torch.randn(9, 7).double(), torch.randint(3, (9,)))],
        same("0", "2"),
    ),
    "summed loss": Case(
        mlp,
        classes(7),
        same("0", "2"),
        loss=lambda o, y: F.cross_entropy(o, y, reduction="sum"),
        options={"reduction": "sum"},
    ),
    "gradient accumulation": Case(mlp, classes(7, count=3), same("0", "2")),
    "one vector without a batch": Case(mlp, one_vector, same("0", "2"), samples=lambda b: b),
    "in-place activations": Case(in_place, classes(7), same("0", "2", "4")),
    "conv2d": Case(conv2d(), classes(2, 6, 5), same("0", "2")),
    "conv2d stride padding dilation": Case(
        conv2d(stride=(2, 1), padding=(1, 2), dilation=(1, 2)), classes(2, 7, 6), same("0", "2")
    ),
    "conv2d same": Case(conv2d(padding="same", dilation=(2, 1)), classes(2, 6, 5), same("0", "2")),
    "conv2d valid": Case(conv2d(padding="valid"), classes(2, 6, 5), same("0", "2")),
    "conv2d circular": Case(
        conv2d(padding=(1, 2), padding_mode="circular"), classes(2, 6, 5), same("0", "2")
    ),
    "conv1d": Case(conv1d(stride=2, padding=1), classes(2, 9), same("0", "3")),
    "conv1d same": Case(conv1d(padding="same", dilation=2), classes(2, 9), same("0", "3")),
    "conv1d even kernel same": Case(
        lambda: nn.Sequential(nn.Conv1d(2, 5, 4, padding="same"), Mean(), nn.Linear(5, 3)),
        classes(2, 9),
        same("0", "2"),
    ),
    "residual": Case(Residual, classes(6), same("first", "branch", "last")),
    "called twice, weight shared": Case(Twice, classes(6), same("again", "left", "right")),
    "fused attention": Case(Fused, tokens(), same("emb", "qkv", "proj", "head"), loss=token_loss),
    "fused attention, summed": Case(
        Fused,
        tokens(),
        same("emb", "qkv", "proj", "head"),
        loss=token_sum,
        options={"reduction": "sum"},
    ),
    "tied embedding": Case(TiedHead, tokens(), same("emb", "qkv", "head"), loss=token_loss),
    **{
        f"torch attention {first=} {cross=}": Case(
            lambda f=first, c=cross: Torch(f, c),
            classes(5, 8, n=7),
            ATTENTION | same("out") | (same("memory") if cross else {}),
            reference=by_hand,
        )
        for first in (True, False)
        for cross in (True, False)
    },
    "torch attention without bias": Case(
        lambda: Torch(True, False, bias=False),
        classes(5, 8, n=7),
        ATTENTION | same("out"),
        reference=by_hand,
    ),
    "torch encoder layer": Case(Encoder, classes(5, 8, n=6), ENCODER, reference=EncoderByHand),
    "LoRA": Case(LoRA, classes(6, k=6), same("first", "base", "down", "up")),
    "frozen layer, in-place input": Case(
        lambda: frozen(in_place(), "2"), classes(7), same("0", "2", "4")
    ),
    "GPT-2 Conv1D": Case(
        lambda: nn.Sequential(Conv1D(9, 7), nn.Tanh(), Conv1D(3, 9)), classes(7), same("0", "2")
    ),
    **{
        f"checkpointing {reentrant=}": Case(
            lambda r=reentrant: Checkpointed(r),
            classes(7),
            same("first", "inner.0", "inner.2", "last"),
            reference=not_checkpointed,
        )
        for reentrant in (True, False)
    },
    "frames folded into the batch": Case(Folded, classes(4, 2, 6), same("conv", "fc", "out")),
    "linear on a grid": Case(Grid, classes(3, 2, 4), same("mix", "out")),
    "sequence first": Case(
        Sequence,
        sequence_batches,
        same("mix", "flat", "out"),
        options={"batch_dim": 1},
        samples=columns,
    ),
}


def frozen(model: nn.Module, layer: str) -> nn.Module:
    model.get_submodule(layer).requires_grad_(False)
    return model


def observed(
    case: Case, model: nn.Module, batches: list[Batch], out: Any, backend: str | None = None
) -> lawful.Run:
    """One optimiser step of the case, its micro-batches averaged, as `observe` records it.

    backend: of the compiler, None for eager mode.
    """
    called = model if backend is None else torch.compile(model, backend=backend)
    count = len(batches)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with lawful.observe(
        called,
        out,
        optimizer=optimizer,
        schedule=lawful.every(1),
        window=1e-3,
        keep="matrices",
        accumulation=count,
        **case.options,
    ):
        for x, y in batches:
            (case.loss(called(x), y) / count).backward()
        optimizer.step()
    return lawful.open_run(out)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_recorded_moments_equal_brute_force(name: str, tmp_path: Any) -> None:
    assert_exact(CASES[name], tmp_path / "run")


# Old torch (2.6 does) breaks the graph at a hook on a tensor inside: slower, and as right.
HOOKS_COMPILE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
COMPILED_QUICKLY = {
    "called twice, weight shared", "gradient accumulation", "torch attention first=True cross=True",
    "torch attention first=False cross=False", "checkpointing reentrant=False",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(
    "name",
    [n if n in COMPILED_QUICKLY else pytest.param(n, marks=pytest.mark.slow) for n in CASES],
)
def test_moments_recorded_in_a_compiled_model_equal_brute_force(name: str, tmp_path: Any) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert_exact(CASES[name], tmp_path / "run", "aot_eager")
    assert not torch._dynamo.utils.counters["graph_break"] or not HOOKS_COMPILE


def assert_exact(case: Case, out: Any, backend: str | None = None) -> None:
    torch.manual_seed(0)
    model, batches = case.model().train(), case.batches()
    samples = case.samples(batches)
    want = brute_force(case.reference(model), samples, case.loss, case.names)
    run = observed(case, model, batches, out, backend)
    assert run.events().empty, run.events().to_string()
    for layer, matrices in want.items():
        assert run.at("clusters", layer, 0).value == len(samples)
        if set(matrices) == {"H_b", "G_b"}:
            continue  # an embedding has scalars only: see below
        for q, reference in matrices.items():
            error = np.linalg.norm(run.array(q, layer=layer, step=0) - reference)
            assert error <= 1e-5 * np.linalg.norm(reference), (layer, q)


def test_the_taps_of_an_embedding_see_its_output() -> None:
    torch.manual_seed(0)
    model, (batch,) = Fused(), tokens()()
    want = brute_force(model, one_by_one([batch]), token_loss, same("emb"))["emb"]
    tap = tapped(model, "emb", Scale("mean", 1))
    token_loss(model(batch[0]), batch[1]).backward()
    m = tap.stream.moments()
    np.testing.assert_allclose(m.H / m.rows, want["H_b"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(m.G / m.rows, want["G_b"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("glob", "heads"), [("qkv", 2), ("proj", 2), ("qkv", "slices")])
def test_heads_are_slices_of_the_whole(glob: str, heads: Any, tmp_path: Any) -> None:
    """The scalars of a head are those of the slice of H, G and W: checked on traces and norms."""
    torch.manual_seed(0)
    model, (batch,) = Fused(), tokens()()
    want = brute_force(model, one_by_one([batch]), token_loss, same("qkv", "proj"))
    W = {n: model.get_submodule(n).weight.detach().double().numpy() for n in want}
    spec = {"k1": slice(12, 16)} if heads == "slices" else heads
    case = Case(Fused, tokens(), {}, loss=token_loss, options={"heads": {glob: spec}})
    run = observed(case, model, [batch], tmp_path / "run")
    cuts = {
        ("qkv", 2): {
            f"qkv[{p}.{i}]": (8 * j + 4 * i, 0) for j, p in enumerate("qkv") for i in (0, 1)
        },
        ("proj", 2): {f"proj[{i}]": (0, 4 * i) for i in (0, 1)},
        ("qkv", "slices"): {"qkv[k1]": (12, 0)},
    }[glob, heads]
    assert [n for n in run.layers if "[" in n] == list(cuts)
    for name, (row, column) in cuts.items():
        rows = slice(row, row + 4) if glob == "qkv" else slice(None)
        inputs = slice(column, column + 4) if glob == "proj" else slice(None)
        H, G = want[glob]["H_a"][inputs, inputs], want[glob]["G_b"][rows, rows]
        assert run.at("trace_H_a", name).value == pytest.approx(np.trace(H), rel=1e-5)
        assert run.at("trace_G_b", name).value == pytest.approx(np.trace(G), rel=1e-5)
        Z = W[glob][rows, inputs] @ W[glob][rows, inputs].T
        plugin = np.corrcoef(G.ravel(), Z.ravel())[0, 1]
        assert run.at("gwa_b_plugin", name).value == pytest.approx(plugin, abs=1e-4)


# -- one tap alone --------------------------------------------------------------------------------


def tapped(model: nn.Module, layer: str, scale: Scale, **options: Any) -> Tap:
    """A listening tap on one linear layer, hooks in place."""
    (map,) = linear_maps(layer, model.get_submodule(layer))
    tap = Tap(map, scale, seed=0, **options)
    tap.active = True
    Hooks(model, [tap], scale, 0).place()
    return tap


def test_scaled_gradients_are_unscaled_and_overflown_ones_passed_over() -> None:
    torch.manual_seed(0)
    model, (x, y) = mlp(), classes(7)()[0]
    plain = tapped(model, "0", Scale("mean", 1))
    F.cross_entropy(model(x), y).backward()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled = tapped(model, "0", Scale("mean", 1, scaler))
    plain.active = False
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    torch.testing.assert_close(scaled.stream.moments().G, plain.stream.moments().G)
    (F.cross_entropy(model(x), y) * torch.inf).backward()
    assert scaled.stream.rows == 12
    assert torch.isfinite(scaled.stream.moments().G).all()


def test_a_disabled_scaler_scales_nothing() -> None:
    scale = Scale("mean", 2, torch.amp.GradScaler("cpu", enabled=False))
    assert scale.scaler is None
    assert scale.factor(5) == 10.0


def test_forward_passes_without_a_gradient_count_for_nothing() -> None:
    model, (x, y) = mlp(), classes(7)()[0]
    tap = tapped(model, "2", Scale("mean", 1))
    with torch.no_grad():
        model(x)
    model(x)  # never differentiated
    assert tap.stream.rows == 0
    loss = F.cross_entropy(model(x), y)
    loss.backward(retain_graph=True)
    loss.backward()  # a second pass through one graph counts once
    assert tap.stream.rows == 12


def test_another_forward_pass_before_the_backward_pass_changes_nothing() -> None:
    """The size of the batch is that of the pass whose gradient arrives."""
    torch.manual_seed(0)
    model, (x, y) = mlp(), classes(7)()[0]
    tap = tapped(model, "2", Scale("mean", 1))
    out = model(x)
    with torch.no_grad():
        model(torch.randn(24, 7))
    F.cross_entropy(out, y).backward()
    tap.active = False
    g = torch.autograd.grad(F.cross_entropy(out := model(x), y, reduction="sum"), out)[0]
    torch.testing.assert_close(tap.stream.moments().G, g.T @ g)


def test_a_tap_that_is_switched_off_sees_nothing() -> None:
    model, (x, y) = mlp(), classes(7)()[0]
    tap = tapped(model, "2", Scale("mean", 1))
    loss = F.cross_entropy(model(x), y)
    tap.active = False
    loss.backward()
    assert (tap.stream.rows, tap.ever) == (0, False)


def test_normalised_rows() -> None:
    torch.manual_seed(0)
    model, (x, y) = mlp(), classes(7)()[0]
    tap = tapped(model, "0", Scale("mean", 1), normalise=True)
    F.cross_entropy(model(x), y).backward()
    m = tap.stream.moments()
    torch.testing.assert_close(m.H, normalised(x).T @ normalised(x))
    assert m.G.trace().item() == pytest.approx(12.0)


def test_long_batches_are_sampled_by_position_without_the_global_generator() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 40 * 40, 3))
    x, y = torch.randn(8, 1, 40, 40), torch.randint(3, (8,))
    tap = tapped(model, "0", Scale("mean", 1))
    before = torch.get_rng_state()
    F.cross_entropy(model(x), y).backward()
    assert torch.equal(before, torch.get_rng_state())
    assert tap.sampled
    assert tap.stream.rows == tap.rows_cap == 4096
    m, whole = tap.stream.moments(), (x**2).mean().item()
    centre = m.H[4, 4].item() / m.rows  # the middle of the kernel never sees the padding
    assert centre == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize("batch_dim", [0, 1])
@pytest.mark.parametrize("T", [64, 33])
def test_half_the_positions_of_sequences_are_every_other_one(T: int, batch_dim: int) -> None:
    """Row t of each sequence is e_t, its gradient t: H counts how often each was taken."""
    layer, n, batches = nn.Linear(T, 1), 32, 200
    tap = tapped(layer, "", Scale("sum", 1), batch_dim=batch_dim)
    tap.half_positions = True
    rows = torch.eye(T), torch.arange(T)[:, None]
    x, t = (v.expand(n, T, -1).movedim(0, batch_dim) for v in rows)
    counts, begins = torch.zeros(T), []
    for _ in range(batches):
        (layer(x) * t).sum().backward()
        m = tap.stream.moments()
        assert m is not None
        taken = m.H.diagonal() / n - counts
        assert taken.tolist() in (([1.0, 0.0] * T)[:T], ([0.0, 1.0] * T)[:T])
        assert torch.equal(m.kept_h.argmax(2), m.kept_g.squeeze(2).long())
        begins.append(int(taken[1]))
        counts += taken
    assert tap.sampled
    assert not tap.problem
    assert torch.equal(counts, torch.full((T,), batches / 2))
    assert all(a != b for a, b in zip(begins[0::2], begins[1::2], strict=True))
    assert 30 < sum(begins[0::2]) < 70  # of 100 pairs, 4 deviations


def test_half_the_samples_are_the_other_half_in_the_next_batch() -> None:
    """Also where a pass that is not differentiated lies between two batches; x_i = e_i."""
    model, x = nn.Sequential(nn.Linear(128, 1)), torch.eye(128)
    tap = tapped(model, "0", Scale("mean", 1))
    tap.half_samples = True
    for batches in (1, 2):
        model(x).square().mean().backward()
        with torch.no_grad():
            model(x)
        m = tap.stream.moments()
        assert m is not None
        assert m.H.diagonal().sum() == 64 * batches
    assert torch.equal(m.H, torch.eye(128))


def test_a_wrapper_that_changes_the_output_is_found_out() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model, (x, y) = nn.Sequential(Scaled(7, 3)), classes(7)()[0]
    tap = tapped(model, "0", Scale("mean", 1))
    F.cross_entropy(model(x), y).backward()
    assert "its output is not W h + b" in tap.problem
    assert tap.stream.rows == 0


def test_an_input_overwritten_before_the_backward_pass_is_found_out() -> None:
    """Neither autograd nor a copy of ours guards the input of a computed frozen weight."""
    model = frozen(mlp(), "2")
    tap = tapped(model, "2", Scale("mean", 1))
    object.__setattr__(tap.map, "parameter", None)
    h = model[0](torch.randn(4, 7))
    out = model[2](h)
    h.detach().zero_()
    out.sum().backward()
    assert "overwritten in place" in tap.problem


def test_a_failure_inside_a_hook_does_not_reach_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = mlp(), classes(7)()[0]
    tap = tapped(model, "0", Scale("mean", 1))

    def no_memory(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(tap.stream, "update", no_memory)
    F.cross_entropy(model(x), y).backward()
    assert tap.problem == "RuntimeError: out of memory"
    assert model[0].weight.grad is not None


def test_half_precision_gradients_do_not_overflow() -> None:
    """n times a float16 gradient: 64 · 2,000 is beyond its range."""
    model = nn.Sequential(nn.Linear(3, 2))
    tap = tapped(model, "0", Scale("mean", 1))
    tap.take(torch.ones(64, 3, dtype=torch.float16), torch.full((64, 2), 2e3, dtype=torch.float16))
    assert torch.isfinite(tap.stream.moments().G).all()
