"""Matching undoes a permutation exactly; the barrier of a known path; functions unchanged."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from lawful.instruments.mode_connectivity import barrier, match, mixture, path


def mlp(*sizes, seed=0):
    torch.manual_seed(seed)
    layers = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def shuffled(state, layers, seed=1):
    """The same function, hidden neurons in another order."""
    draw = torch.Generator().manual_seed(seed)
    out = {n: p.clone() for n, p in state.items()}
    for here, after in pairwise(layers):
        order = torch.randperm(len(out[f"{here}.weight"]), generator=draw)
        out[f"{here}.weight"] = out[f"{here}.weight"][order]
        out[f"{here}.bias"] = out[f"{here}.bias"][order]
        out[f"{after}.weight"] = out[f"{after}.weight"][:, order]
    return out


@pytest.mark.parametrize("sizes", [(6, 40, 3), (6, 24, 24, 24, 3)])
def test_a_permutation_is_undone(sizes):
    net = mlp(*sizes)
    layers = [str(2 * l) for l in range(len(sizes) - 1)]
    a = net.state_dict()
    b = shuffled(a, layers)
    found = match(a, b, layers)
    for name in a:
        torch.testing.assert_close(found[name], a[name])


def test_matching_changes_no_function_and_lowers_the_barrier():
    one, two = mlp(6, 64, 3, seed=0), mlp(6, 64, 3, seed=1)
    x = torch.randn(50, 6)
    y = torch.sin(x[:, :3])
    for net in (one, two):
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(300):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
    a, b = one.state_dict(), two.state_dict()
    c = match(a, b, ["0", "2"])
    torch.testing.assert_close(torch.func.functional_call(two, c, x), two(x).detach())

    def loss(f):
        return float((f(x) - y).square().mean())

    plain, matched = barrier(path(one, a, b, loss)), barrier(path(one, a, c, loss))
    assert matched < 0.7 * plain
    assert float(path(one, a, b, loss)[0]) == pytest.approx(
        float((one(x) - y).detach().square().mean())
    )


def test_the_barrier_is_over_the_line_between_the_ends():
    assert barrier(torch.tensor([0.0, 0.5, 1.0])) == 0
    assert barrier(torch.tensor([0.0, 0.2, 1.0])) == 0
    assert barrier(torch.tensor([0.0, 2.0, 1.0])) == 1.5
    kept = mixture({"n": torch.tensor(3)}, {"n": torch.tensor(5)}, 0.5)
    assert int(kept["n"]) == 3


def test_what_cannot_be_matched_is_refused():
    a = mlp(4, 8, 2).state_dict()
    with pytest.raises(ValueError, match="no hidden neuron"):
        match(a, a, ["0"])
    with pytest.raises(ValueError, match="one shape"):
        match(a, mlp(4, 9, 2).state_dict(), ["0", "2"])
