"""posterior-collapse: descent and loss against autograd and torch's own divergence."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lawful.lab.experiment import experiment, last
from lawful.lab.experiments import posterior_collapse as pc
from lawful.theory.linear_vae import fixed_variance, learned_variance


def test_descent_reaches_the_closed_form():
    """β = 1: three of five modes, and as theory has it when the variance is fixed."""
    path = pc.descend(torch.tensor([1.0, 1.0]).double(), 1, seed=0)
    found = next(islice(path, 2500, None))
    assert pc.error(found(0), learned_variance(pc.ZETA, 1.0)) < 1e-3
    assert pc.error(found(1), fixed_variance(pc.ZETA, 1.0, pc.FIXED)) < 1e-3
    assert int((found(0).u > 1e-2).sum()) == 3
    assert np.allclose(found(1).sigma2, pc.FIXED)


@pytest.mark.parametrize("width", [0, 8])
def test_the_loss_is_reconstruction_and_divergence(width):
    vae = pc.BetaVae(2, 6, 3, width, torch.Generator().manual_seed(0))
    x, beta = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)), torch.ones(2, 1)
    draws = [torch.Generator().manual_seed(2) for _ in range(2)]
    more = vae.loss(x, 3 * beta, draws[0]) - vae.loss(x, beta, draws[1])
    mean, log_variance = vae.encode(x)
    scale = (log_variance / 2).exp().expand_as(mean)
    kl = kl_divergence(Normal(mean, scale), Normal(0.0, 1.0)).sum(-1).mean(1).sum()
    assert torch.allclose(more, 2 * kl, rtol=1e-5)


def test_a_toy_run_lets_theory_speak_of_linear_models_only(tmp_path):
    chosen = experiment("posterior-collapse")
    settings = chosen.configure(["steps=2", "batch=8", "width=4", "measurements=2"])
    run = chosen.run(settings, tmp_path / "out", progress=False)
    assert run.manifest["status"] == "finished"
    assert [last("active_modes_predicted", f"β={b:g}", run) for b in pc.BETAS] == [5, 3, 2, 1, 0]
    assert last("vae_threshold", "β=3, fixed σ²", run) == 1.5
    assert run.at("vae_threshold", "digits, ReLU, β=0.1") is None
