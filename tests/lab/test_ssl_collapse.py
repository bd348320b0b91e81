"""ssl-collapse: the loss gradient against autograd, counts and strengths against theory."""

import numpy as np
import pytest
import torch

from lawful.lab.experiment import experiment, last
from lawful.lab.experiments import ssl_collapse as sc
from lawful.theory.linear_ssl import optimum


def test_the_gradient_of_infonce_is_that_of_autograd():
    draw = torch.Generator().manual_seed(0)
    f, g = (sc._normal(draw, 2, 7, 3).requires_grad_() for _ in "fg")
    logits = -torch.cdist(f, g).square() / 2
    pairs = logits.masked_fill(torch.eye(7, dtype=torch.bool), -torch.inf)
    negative = torch.logsumexp(pairs, -1) - np.log(6)
    loss = (negative - logits.diagonal(dim1=1, dim2=2)).mean(1).sum()
    brute = torch.autograd.grad(loss, (f, g))
    for mine, theirs in zip(sc.infonce_gradient(f.detach(), g.detach()), brute, strict=True):
        assert torch.allclose(mine, theirs)


def test_a_case_knows_its_count_its_doubt_and_its_strengths():
    case = sc.Case("case", np.diag(sc.SPECTRUM), 0.3 * np.eye(4), 0.18, 4)
    assert (case.active, case.near) == (2 + 1, 1)
    assert (case.strengths > 1e-9).sum() == 3
    assert sc.Case("narrow", case.A0, case.C, 0.18, 2).active == 2


def test_strengths_are_eigenvalues_of_the_embedding():
    A0, C = np.diag(sc.SPECTRUM), np.diag([0.1, 0.3, 0.6, 1.2])
    WW = optimum(A0, C, 0.1)
    brute = np.sort(np.linalg.eigvals(WW @ (A0 + C)).real)[::-1]
    assert sc.strengths(WW, A0 + C) == pytest.approx(brute)


def test_the_error_of_a_mean_strength_knows_that_sgd_forgets_slowly():
    """WᵀW = P + correlated noise, memory 20 steps: the 95 % interval holds the truth as often."""
    rng, inside = np.random.default_rng(0), []
    P, Sigma, memory = np.diag([2.0, 1.0, 0.5]), np.diag([1.0, 2.0, 0.5]), np.exp(-1 / 20)
    truth = sc.strengths(P, Sigma)
    for _ in range(150):
        kicks = 0.01 * rng.normal(size=(500, 3, 3))
        noise = [kicks[0] / np.sqrt(1 - memory**2)]
        for kick in kicks[1:]:
            noise.append(memory * noise[-1] + kick)
        p, errors = sc.averaged_strengths(P + np.array(noise) + np.swapaxes(noise, 1, 2), Sigma)
        inside.append(np.abs(p - truth) < 1.96 * errors)
    assert 0.9 < np.mean(inside) < 0.99


def test_one_step_has_strengths_and_no_error():
    p, errors = sc.averaged_strengths(np.diag([1.0, 3.0])[None], np.eye(2))
    assert p.tolist() == [3.0, 1.0]
    assert np.isnan(errors).all()


def test_a_toy_run_lets_theory_speak_of_linear_encoders_only(tmp_path):
    chosen = experiment("ssl-collapse")
    settings = chosen.configure(["steps=2", "batch=8", "measurements=2"])
    run = chosen.run(settings, tmp_path / "out", progress=False)
    assert run.manifest["status"] == "finished"
    assert last("active_modes_predicted", "γ=0.35, anisotropic C", run) == 2
    assert last("ssl_threshold", "digits, linear, γ=0.1", run) == 0.1
    assert run.at("ssl_threshold", "digits, ReLU, γ=0.1") is None
