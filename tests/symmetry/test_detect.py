"""What is found in real modules, against brute force: transform θ and look at the loss."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from transformer import HandNorm, Transformer, next_token

from lawful.lab.models import GPT, MLP, ResNet18
from lawful.symmetry import Discrete, Family, symmetries


def points(n, d, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g), torch.randint(classes, (n,), generator=g)


def tokens(n=6, T=7, vocabulary=7):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(vocabulary, (n, T + 1), generator=g)
    x.view(-1)[:vocabulary] = torch.arange(vocabulary)
    return x[:, :-1], x[:, 1:]


def build(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make()


def brute_force(model, data, loss, found):
    """Largest change of the loss under finite transforms, and of ⟨Bθ, g⟩ for each sample."""
    model = model.double()
    x, y = (t.double() if t.is_floating_point() else t for t in data)
    g = torch.Generator().manual_seed(2)
    theta = {
        n: p.detach() + 0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype)
        for n, p in model.named_parameters()
    }
    value = loss(functional_call(model, theta, (x,)), y)
    change, identity = 0.0, 0.0
    for s in (s for s in found if s.certified):
        if isinstance(s.generator, Discrete):
            moved = s.generator.act(theta, s.generator.random(g))
        else:
            c = torch.randn(s.dimension, generator=g, dtype=torch.float64)
            flow = s.generator.generator(0.5 * c / c.norm())
            moved = flow.transform(theta)
            leaves = {n: t.clone().requires_grad_() for n, t in theta.items()}
            one = loss(functional_call(model, leaves, (x[:2],)), y[:2])
            grads = dict(zip(leaves, torch.autograd.grad(one, list(leaves.values())), strict=True))
            v = flow.velocity(theta)
            identity = max(identity, abs(float(sum((v[n] * grads[n]).sum() for n in v))))
        after = loss(functional_call(model, moved, (x,)), y)
        change = max(change, abs(float(after - value)))
    return change, identity


def counts(found, certified=True):
    total = Counter()
    for s in found:
        if s.certified is certified and isinstance(s.generator, Family):
            total[s.kind] += s.dimension
    return dict(total)


def head(width, outputs=3):
    return nn.Linear(width, outputs)


SMALL = {
    # Continuous directions by kind.
    "4-6-3 ReLU": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), head(6)),
        {"rescaling": 6, "shift": 7},
    ),
    "4-5-5-3 leaky": (
        lambda: nn.Sequential(
            nn.Linear(4, 5), nn.LeakyReLU(), nn.Linear(5, 5), nn.LeakyReLU(), head(5)
        ),
        {"rescaling": 10, "shift": 6},
    ),
    "tanh": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), head(6)), {"shift": 7}),
    "gelu": (lambda: nn.Sequential(nn.Linear(4, 6), nn.GELU(), head(6)), {"shift": 7}),
    "LN": (
        lambda: nn.Sequential(
            nn.Linear(4, 6), nn.LayerNorm(6, eps=0, elementwise_affine=False), head(6)
        ),
        {"scale invariance": 1, "shift": 12},
    ),
    "LN affine ReLU": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6, eps=0), nn.ReLU(), head(6)),
        {"scale invariance": 1, "rescaling": 6, "shift": 12},
    ),
    "RMS": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6, eps=0), head(6)),
        {"scale invariance": 1, "rescaling": 6, "shift": 7},
    ),
    "RMS by hand": (
        lambda: nn.Sequential(nn.Linear(4, 6), HandNorm(6), head(6)),
        {"scale invariance": 1, "rescaling": 6, "shift": 7},
    ),
    "BN": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, eps=1e-30), nn.ReLU(), head(6)),
        {"scale invariance": 6, "rescaling": 6, "shift": 7, "offset": 6},
    ),
    "linear": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5), head(5)),
        {"GL": 9 + 25, "shift": 6},
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_nets(name):
    make, expected = SMALL[name]
    model, data = build(make), points(32, 4)
    found = symmetries(model, data, F.cross_entropy, samples=32)
    assert counts(found) == expected
    assert all(s.violation < 1e-12 for s in found if s.certified)
    assert all(s.source == "graph of the model" for s in found)
    change, identity = brute_force(model, data, F.cross_entropy, found)
    assert change < 1e-10
    assert identity < 1e-10


def test_signs_and_permutations():
    data = points(16, 4)
    kinds = {}
    for name in ("tanh", "gelu", "4-6-3 ReLU"):
        found = symmetries(build(SMALL[name][0]), data, F.cross_entropy, samples=16)
        kinds[name] = sorted(s.kind for s in found if isinstance(s.generator, Discrete))
        assert all(s.certified and s.violation < 1e-12 for s in found)
    assert kinds == {
        "tanh": ["permutation", "sign"],
        "gelu": ["permutation"],
        "4-6-3 ReLU": ["permutation"],
    }


class LoRA(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.a = nn.Linear(5, 6), nn.Linear(5, 2, bias=False)
        self.b, self.head = nn.Linear(2, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.relu(self.base(x) + 0.5 * self.b(self.a(x))))


class Head(nn.Module):
    """One attention head, d_h = 3, no positions, no key bias."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(5, 3, bias=False) for _ in range(3))
        self.o = nn.Linear(3, 4, bias=False)

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-2, -1) / 3**0.5
        return self.o(scores.softmax(-1) @ self.v(x))


def test_nullities_of_a_single_head():
    """QK and VO have 9 directions each and 6 charges; no other pair of its maps has any."""
    g = torch.Generator().manual_seed(0)
    data = torch.randn(12, 6, 5, generator=g), torch.randn(12, 6, 4, generator=g)
    found = symmetries(build(Head), data, F.mse_loss, samples=12)
    continuous = [s for s in found if isinstance(s.generator, Family)]
    assert [(s.kind, s.layers, s.dimension, s.laws) for s in continuous] == [
        ("GL", ("v", "o"), 9, 6),
        ("QK", ("k", "q"), 9, 6),
    ]
    assert max(brute_force(build(Head), data, F.mse_loss, found)) < 1e-10


def test_lora():
    model, data = build(LoRA), points(32, 5)
    found = symmetries(model, data, F.cross_entropy, samples=32)
    assert counts(found) == {"rescaling": 6, "GL": 4, "shift": 7}
    assert next(s.laws for s in found if s.kind == "GL") == 3
    assert max(brute_force(model, data, F.cross_entropy, found)) < 1e-10


TRANSFORMERS = {
    # width 16, 4 query heads over 2 key heads, d_h = 4
    "plain": ({}, {"QK": 2 * 16, "GL": 2 * 16, "offset": 8}),
    "rotary": ({"rotary": 4}, {"QK": 2 * 4, "GL": 2 * 16}),
    "half rotary": ({"rotary": 2}, {"QK": 2 * (2 + 4), "GL": 2 * 16}),
    "norm by hand": ({"norm": HandNorm}, {"QK": 2 * 16, "GL": 2 * 16, "offset": 8}),
    "QK-norm": ({"qk_norm": True}, {"GL": 2 * 16}),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer(name):
    options, attention = TRANSFORMERS[name]
    model, data = build(lambda: Transformer(**options)), tokens()
    found = symmetries(model, data, next_token)
    common = {"scale invariance": 1, "rescaling": 3 * 16 + 32, "shift": 16}
    assert counts(found) == common | attention
    names = [s.name for s in found]
    assert len(set(names)) == len(names)
    change, identity = brute_force(model, data, next_token, found)
    assert change < 1e-10
    assert identity < 1e-10


def test_rotary_charges_are_one_a_plane():
    found = symmetries(build(lambda: Transformer(rotary=4)), tokens(), next_token)
    assert [s.laws for s in found if s.kind == "QK"] == [2, 2]


def test_tied_embeddings():
    """The scale of the stream and the last gain survive together; the softmax shift does not."""
    model, data = build(lambda: Transformer(tied=True)), tokens()
    found = symmetries(model, data, next_token)
    tied = [s for s in found if "token" in s.layers]
    assert [(s.kind, s.dimension, s.certified) for s in tied] == [
        ("rescaling", 1, True),
        ("shift", 16, False),
        ("permutation", 16, True),
    ]
    assert tied[1].violation > 0.1
    assert max(brute_force(model, data, next_token, found)) < 1e-10


def test_a_module_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.again, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x):
            h = torch.relu(self.read(x))
            h = torch.relu(self.again(h))
            return self.head(torch.relu(self.again(h)))

    model, data = build(Twice), points(32, 4)
    found = symmetries(model, data, F.cross_entropy, samples=32)
    # Tied twice, the two sets of hidden units scale one by one with their neurons: 5 directions.
    assert max(brute_force(model, data, F.cross_entropy, found)) < 1e-10
    rescalings = [s for s in found if s.kind == "rescaling"]
    assert [(s.dimension, s.certified) for s in rescalings] == [(5, True)]


def test_lab_gpt():
    model = build(lambda: GPT(7, context=7, depth=2, heads=2, width=8, bias=True))
    for m in model.modules():
        if isinstance(m, nn.LayerNorm):
            m.eps = 0.0
    data = tokens(12)
    found = symmetries(model, data, next_token, samples=12)
    assert counts(found) == {
        "scale invariance": 1,
        "rescaling": 5 * 8,
        "GL": 4 * 16,
        "QK": 4 * 16,
        "shift": 7 + 7 + 2 * (8 + 1) + 2 * (32 + 1) + 8,
        "offset": 2 * 8,
    }
    assert max(brute_force(model, data, next_token, found)) < 1e-10


def test_torch_encoder_layer_with_fused_attention():
    model = build(lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True))
    g = torch.Generator().manual_seed(0)
    data = torch.randn(8, 5, 8, generator=g), torch.randn(8, 5, 8, generator=g)
    found = symmetries(model, data, F.mse_loss, samples=8)
    assert counts(found) == {"rescaling": 12, "GL": 32, "QK": 32, "shift": 9, "offset": 8}
    assert max(brute_force(model, data, F.mse_loss, found)) < 1e-10


def test_resnet18():
    """Narrow, same build: BatchNorm in training mode, residual stages, strided skips."""
    model = build(lambda: ResNet18(3, 5, width=8))
    g = torch.Generator().manual_seed(0)
    data = torch.randn(6, 3, 16, 16, generator=g), torch.randint(5, (6,), generator=g)
    found = symmetries(model, data, F.cross_entropy)
    broken = [s for s in found if not s.certified]
    assert {s.kind for s in broken} == {"scale invariance"}
    assert all("at eps = 0" in s.sentence and 1e-8 < s.violation < 1e-2 for s in broken)
    # every convolution row; gains inside blocks against the next convolution, and by stage
    rows = sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    assert sum(s.dimension for s in broken) == rows
    inside = 2 * (8 + 16 + 32 + 64)
    assert counts(found) == {"rescaling": inside + 8 + 16 + 32 + 64, "shift": 65}
    assert sum(s.kind == "permutation" for s in found if s.certified) == 8 + 4
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eps = 1e-30
    exact = symmetries(model, data, F.cross_entropy)
    assert all(s.certified for s in exact)


def test_eval_mode_batchnorm_absorbs_nothing():
    model = build(SMALL["BN"][0]).eval()
    found = symmetries(model, points(32, 4), F.cross_entropy, samples=32)
    assert counts(found) == {"rescaling": 6, "shift": 7}


def test_dead_neurons_certify_nothing():
    model = build(SMALL["4-6-3 ReLU"][0])
    with torch.no_grad():
        model[0].bias[2] = -1e3
    found = symmetries(model, points(32, 4), F.cross_entropy, samples=32)
    tested = {s.kind: s for s in found if s.certified}
    dead = {s.kind: s for s in found if not s.certified}
    assert (tested["rescaling"].dimension, dead["rescaling"].dimension) == (5, 1)
    assert (tested["permutation"].dimension, dead["permutation"].dimension) == (5, 1)
    assert all(s.violation != s.violation and "dead" in s.sentence for s in dead.values())


def test_the_model_and_the_random_state_are_left_alone():
    model = build(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), head(6)))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    symmetries(model, points(8, 4), F.cross_entropy)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())


class Branching(nn.Module):
    """torch.fx cannot follow the branch: the parts are traced instead."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        h = self.body(x)
        return self.head(h if float(h.sum()) > -1e9 else 2 * h)


def test_parts_of_a_model_that_cannot_be_traced():
    model, data = build(Branching), points(32, 4)
    found = symmetries(model, data, F.cross_entropy, samples=32)
    assert {(s.kind, s.source, s.certified) for s in found} == {
        ("rescaling", "graph of the part body", True),
        ("permutation", "graph of the part body", True),
    }
    assert found[0].layers == ("body.0", "body.2")


def test_an_unsupervised_loss_and_several_inputs():
    model = build(lambda: MLP(4, 3, width=5, depth=1, activation="linear"))
    x, _ = points(8, 4)
    found = symmetries(model, x, lambda f: f.square().mean())
    assert counts(found) == {"GL": 25}
    assert found[0].charge.startswith("⟨fc0.weight[i], fc0.weight[j]⟩")
    assert " − ⟨fc1.weight[:,i], fc1.weight[:,j]⟩" in found[0].charge
