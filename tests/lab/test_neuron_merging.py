"""neuron-merging: the block statistic against its definition, the networks against plain SGD."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lawful.lab.datasets import batches, flatten, load, standardise
from lawful.lab.experiment import experiment, last
from lawful.lab.experiments import neuron_merging as nm


def grouped(groups=4, size=4, noise=0.05, seed=0):
    """Activations of `groups` kinds of neurons, `size` noisy signed copies of each."""
    draw = np.random.default_rng(seed)
    kinds = np.repeat(draw.normal(size=(500, groups)), size, axis=1)
    signs = draw.choice([-1, 1], groups * size)
    return kinds * signs + noise * draw.normal(size=(500, groups * size))


def test_homogeneity_is_the_share_explained_by_block_means():
    C = nm.correlations(grouped(noise=0.3))
    label = nm._cluster(C, 4, "maxclust")
    sign = np.array([np.sign(C[np.flatnonzero(label == k)[0], i]) for i, k in enumerate(label)])
    C0 = C * np.outer(sign, sign)
    fitted = np.zeros_like(C)
    off = ~np.eye(len(C), dtype=bool)
    for a in set(label):
        for b in set(label):
            block = np.outer(label == a, label == b) & off
            fitted[block] = C0[block].mean()
    brute = 1 - np.square(C0 - fitted)[off].sum() / np.square(C0)[off].sum()
    assert nm.block_homogeneity(C, 4) == pytest.approx(brute, abs=0.02)


def test_merged_neurons_stand_out_from_a_rotation_and_independent_ones_do_not():
    settings = nm.Merging(width=16, rotations=5)
    draw = np.random.default_rng(0)
    merged = nm.blocks(grouped(), settings, draw)
    alone = nm.blocks(np.random.default_rng(1).normal(size=(500, 16)), settings, draw)
    assert (merged.distinct, merged.live) == (4, 16)
    assert merged.homogeneity > 0.95 > merged.null + 0.05
    assert (alone.distinct, alone.live) == (16, 16)
    assert abs(alone.homogeneity - alone.null) < 0.1


def test_dead_neurons_are_left_out():
    h = grouped()
    h[:, 3] = 1.0
    assert len(nm.correlations(h)) == 15


def test_side_by_side_networks_take_the_steps_of_torch_sgd():
    settings = nm.Merging(steps=3, width=8, seeds=1)
    data = flatten(standardise(load("digits")))
    *_, parameters = nm.networks(settings, [nm.Case(0.0), nm.Case(0.03)], data, seed=0)
    own = [
        p[1].detach().clone().requires_grad_()
        for p in next(nm.networks(settings, [nm.Case(0.0), nm.Case(0.03)], data, seed=0))
    ]
    optimizer = torch.optim.SGD(own, lr=settings.learning_rate, weight_decay=0.03)
    for x, y in batches(data.x_train, data.y_train, settings.batch, steps=3, seed=0):
        h = x
        for W, b in zip(own[:-2:2], own[1:-2:2], strict=True):
            h = torch.relu(h @ W.mT + b)
        optimizer.zero_grad()
        cross_entropy(h @ own[-2].mT + own[-1], y).backward()
        optimizer.step()
    for together, alone in zip(parameters, own, strict=True):
        assert torch.allclose(together[1], alone, atol=1e-5)


def test_a_toy_run_predicts_that_nothing_merges_without_a_mirror(tmp_path):
    chosen = experiment("neuron-merging")
    settings = chosen.configure(["steps=2", "width=8", "seeds=1", "rotations=1", "measurements=2"])
    run = chosen.run(settings, tmp_path / "out", progress=False)
    assert run.manifest["status"] == "finished"
    for case in ("λ=0", "λ=0.03 towards θ₀"):
        assert last("distinct_neurons_predicted", case, run) == last("live_neurons", case, run)
    assert run.at("distinct_neurons_predicted", "λ=0.03") is None
