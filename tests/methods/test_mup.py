"""μP: unchanged at the base, the rates of the tables, factors where they belong, plain to save."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, layer_norm

from lawful.methods.coordinate_check import coordinate_check
from lawful.methods.mup import mup, mup_check, trainable
from lawful.theory.parametrization import Growth


def mlp(width):
    return nn.Sequential(
        nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


class Tied(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.token = nn.Embedding(12, width)
        self.up = nn.Linear(width, width)
        self.head = nn.Linear(width, 12, bias=False)
        self.head.weight = self.token.weight

    def forward(self, x):
        return self.head(torch.relu(self.up(self.token(x))))


class Heads(nn.Module):
    """One attention layer: as many heads at every width, or heads of equal size."""

    def __init__(self, width, heads, bias=False):
        super().__init__()
        self.inp = nn.Linear(6, width)
        self.attention = nn.MultiheadAttention(width, heads, bias=bias, batch_first=True)
        self.out = nn.Linear(width, 3)

    def forward(self, x):
        h = self.inp(x)
        return self.out(h + self.attention(h, h, h)[0])


def test_at_the_base_width_nothing_changes():
    torch.manual_seed(3)
    plain = mlp(32)
    torch.manual_seed(3)
    made = mup(mlp, 32, base=32, delta=64)
    assert {g["lr"] for g in made.groups(0.1)} == {0.1}
    assert {g["weight_decay"] for g in made.groups(0.1, weight_decay=0.2)} == {0.2}
    for p, q in zip(plain.parameters(), made.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_rates_are_those_of_the_table():
    made = mup(mlp, 128, base=32, delta=64)
    assert made.growths == {
        "0.weight": Growth(1, 4), "0.bias": Growth(1, 4), "2.weight": Growth(4, 4),
        "2.bias": Growth(1, 4), "4.weight": Growth(4, 1), "4.bias": Growth(1, 1),
    }  # fmt: skip

    def rates(optimizer, key="lr"):
        groups = made.groups(1.0, optimizer=optimizer, weight_decay=1.0, eps=1.0)
        of = {id(p): g[key] for g in groups for p in g["params"]}
        return [of[id(p)] for p in made.model.parameters()]

    assert rates("adam") == [1, 1, 0.25, 1, 0.25, 1]
    assert rates("sgd") == [4, 4, 1, 4, 0.25, 1]
    assert rates("adam", "eps") == [0.25, 0.25, 0.25, 0.25, 1, 1]
    assert rates("adam", "weight_decay") == [1, 1, 4, 1, 4, 1]
    assert rates("sgd", "weight_decay") == [0.25, 0.25, 1, 0.25, 4, 1]


def test_initial_deviations_are_read_off_the_base_model():
    torch.manual_seed(0)
    made = mup(mlp, 1024, base=64, delta=128)
    std = {n: float(p.detach().std()) for n, p in made.model.named_parameters()}
    assert std["0.weight"] == pytest.approx((1 / 48) ** 0.5, rel=0.05)  # U(±1/√16)
    assert std["2.weight"] == pytest.approx((1 / 192 / 16) ** 0.5, rel=0.05)  # 1/√m
    assert std["4.weight"] == pytest.approx((1 / 192) ** 0.5 / 16, rel=0.08)  # 1/m


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_step_is_that_of_the_form_with_factors(optimizer):
    """Readout with an explicit 1/m, constant init, rate ×1 (Adam) or ×m (SGD): the same."""
    torch.manual_seed(0)
    m, base = 4, 8
    made = mup(mlp, 32, base=base, delta=16)
    factored = copy.deepcopy(made.model)
    with torch.no_grad():
        factored[4].weight.mul_(m)
    factored[4].register_forward_pre_hook(lambda module, args: (args[0] / m,))
    x, y = torch.randn(20, 16), torch.arange(20) % 10
    torch.testing.assert_close(made.model(x), factored(x))
    groups = [dict(g) for g in made.groups(0.05, optimizer=optimizer, eps=1e-14)]
    swap = dict(zip(made.model.parameters(), factored.parameters(), strict=True))
    rate = {"adam": 0.05, "sgd": 0.05 * m}[optimizer]
    theirs = []
    for g in groups:
        for p in g["params"]:
            own = rate if p is made.model[4].weight else g["lr"]
            theirs.append({**g, "params": [swap[p]], "lr": own})
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    for model, by in ((made.model, groups), (factored, theirs)):
        stepper = kind(by, lr=0.05)
        for _ in range(3):
            stepper.zero_grad()
            cross_entropy(model(x), y).backward()
            stepper.step()
    torch.testing.assert_close(made.model(x), factored(x), atol=2e-4, rtol=1e-3)


def test_a_tied_readout_gets_its_factor_in_the_forward_pass():
    torch.manual_seed(0)
    made = mup(Tied, 64, base=16, delta=32)
    assert made.growths["token.weight"] == Growth(1, 4)
    assert made.model.head.weight is made.model.token.weight
    h, W = torch.randn(2, 64), made.model.head.weight
    torch.testing.assert_close(made.model.head(h), h @ W.T / 4)


def test_queries_of_heads_that_widen():
    torch.manual_seed(0)
    made = mup(lambda n: Heads(n, 2), 64, base=16, delta=32)
    inner = made.model.attention
    h = torch.randn(1, 5, 64)
    q, k, v = (h @ W.T for W in inner.in_proj_weight.chunk(3))
    q, k, v = (t.view(5, 2, 32).transpose(0, 1) for t in (q, k, v))
    score = (q @ k.mT) / 32**0.5 / 2  # head dimension × 4: another factor 4^−½
    by_hand = inner.out_proj((score.softmax(-1) @ v).transpose(0, 1).reshape(1, 5, 64))
    torch.testing.assert_close(inner(h, h, h)[0], by_hand)
    torch.testing.assert_close(inner(query=h, key=h, value=h)[0], by_hand)
    equal = mup(lambda n: Heads(n, n // 8, bias=True), 64, base=16, delta=32)
    assert not equal.model.attention._forward_pre_hooks
    with pytest.raises(ValueError, match="heads of equal size"):
        mup(lambda n: Heads(n, 2, bias=True), 64, base=16, delta=32)


def test_a_fused_map_scales_its_queries_alone():
    made = mup(lambda n: nn.Sequential(nn.Linear(n, 3 * n)), 64, base=16, delta=32,
               queries=[("0", 3)])  # fmt: skip
    h = torch.randn(4, 64)
    plain = nn.functional.linear(h, made.model[0].weight, made.model[0].bias)
    q, rest = plain[:, :64] / 2, plain[:, 64:]
    torch.testing.assert_close(made.model(h), torch.cat([q, rest], 1))


class Deep(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.inp = nn.Linear(16, width)
        self.branches = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.out = nn.Linear(width, 10)

    def forward(self, x):
        h = self.inp(x)
        for branch in self.branches:
            h = h + branch(layer_norm(torch.relu(h), h.shape[1:]))
        return self.out(h)


def test_depth():
    """Branches get m_L^−α, Adam inside them m_L^{α−1}; the change of the output stays put."""
    made = mup(lambda n: Deep(n, 8), 32, base=32, delta=64, branches=["branches.*"], depth=4,
               alpha=0.5)  # fmt: skip
    assert len(made.blocks) == 16
    assert sorted({g["lr"] for g in made.groups(1.0)}) == [0.5, 1.0]
    h = torch.randn(3, 32)
    plain = nn.functional.linear(h, made.model.branches[0].weight, made.model.branches[0].bias)
    torch.testing.assert_close(made.model.branches[0](h), plain / 2)
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 16, generator=draw), torch.arange(64) % 10

    def moved(layers, depth):
        options = {"branches": ["branches.*"], "depth": depth}
        build = trainable(lambda n: Deep(n, layers), base=32, delta=64, lr=3e-3, **options)
        changes = []
        for seed in range(3):
            model, optimizer = build(32, seed)
            before = model(x).detach()
            for _ in range(3):
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
            changes.append((model(x).detach() - before).square().mean().sqrt())
        return float(torch.stack(changes).mean())

    base = moved(4, 1)
    assert moved(64, 16) / base == pytest.approx(1, abs=0.4)
    assert moved(64, 1) / base > 2


def test_the_rate_of_depth_reaches_all_that_a_glob_names():
    made = mup(lambda n: Deep(n, 8), 32, base=32, delta=64, blocks=["*"], depth=4, alpha=0.5)
    assert {g["lr"] for g in made.groups(1.0)} == {0.5}


def test_saved_and_loaded_plainly(tmp_path):
    made = mup(Tied, 32, base=16, delta=64)
    assert set(made.model.state_dict()) == set(Tied(32).state_dict())
    torch.save(made.model.state_dict(), tmp_path / "w.pt")
    again = mup(Tied, 32, base=16, delta=64)
    again.model.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    x = torch.arange(12)
    assert torch.equal(made.model(x), again.model(x))
    whole = pickle.loads(pickle.dumps(made.model))  # factors go with it
    assert torch.equal(whole(x), made.model(x))


def test_it_draws_what_the_plain_model_draws():
    torch.manual_seed(5)
    mlp(64)
    expected = torch.rand(1)
    torch.manual_seed(5)
    mup(mlp, 64, base=16, delta=32)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"base": 32, "delta": 32}, "no side differs|side where base"),
        ({"base": 32, "delta": 64, "branches": ["block*"]}, "names no module"),
        ({"base": 32, "delta": 64, "queries": [("1", 3)]}, "no nn.Linear"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        mup(mlp, 128, **arguments)


def test_models_that_differ_in_depth_are_refused():
    with pytest.raises(ValueError, match="in width alone"):
        mup(lambda n: Deep(n, n // 16), 64, base=32, delta=48)


@pytest.mark.parametrize(("optimizer", "lr"), [("adam", 1e-2), ("sgd", 0.1)])
def test_the_coordinate_check_passes_mup_and_fails_standard(optimizer, lr):
    torch.manual_seed(0)
    x, y = torch.randn(64, 16), torch.randint(10, (64,))

    def loss(f):
        return cross_entropy(f, y)

    widths = (64, 128, 256, 512)
    found = mup_check(mlp, x, loss, base=64, delta=128, lr=lr, optimizer=optimizer, widths=widths)
    assert found.stable, found.slopes()

    def standard(width, seed):
        torch.manual_seed(seed)
        model = mlp(width)
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
        return model, kind(model.parameters(), lr=lr * (10 if optimizer == "sgd" else 1))

    plain = coordinate_check(standard, widths, x, loss)
    assert not plain.stable
    assert set(plain.slopes()) == {"0", "2", "4"}


def test_the_check_refuses_what_did_not_move():
    def frozen(width, seed):
        model = mlp(width)
        return model, torch.optim.SGD(model.parameters(), lr=0.0)

    with pytest.raises(ValueError, match="choose another learning rate"):
        coordinate_check(frozen, (16, 32), torch.randn(4, 16), lambda f: f.sum(), seeds=1)
    with pytest.raises(ValueError, match="two different widths"):
        coordinate_check(frozen, (16,), torch.randn(4, 16), lambda f: f.sum())
