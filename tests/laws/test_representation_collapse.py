"""Modes of contrastive and variational encoders against the closed forms."""

import numpy as np
import pytest
import torch

from lawful.theory import linear_ssl, linear_vae

PARTS = {"dimensional_collapse": "ssl_threshold", "posterior_collapse": "vae_threshold"}


@pytest.fixture
def counted(empty):
    """Both kinds of run: three modes live, three were predicted."""
    for threshold in PARTS.values():
        empty.record(threshold, 0.35, layer="case", stderr=0.0)
    empty.record("active_modes", [5.0, 3.0, 3.0], layer="case", stderr=0.0, steps=(0, 800, 1000))
    return empty.record("active_modes_predicted", 3.0, layer="case", stderr=0.0, steps=(0, 1000))


@pytest.mark.parametrize("law", PARTS)
def test_counts(counted, law):
    found = counted.verdict(law, "case")
    assert (found.status, found.effect, found.null, found.initial) == ("holds", 3, 3, 5)
    counted.record("active_modes", [5.0, 4.0, 4.0], layer="case", stderr=0.0, steps=(0, 800, 1000))
    assert counted.verdict(law, "case").status == "violated"
    # One mode lies within sampling error of the threshold.
    counted.record("active_modes_predicted", 3.0, layer="case", stderr=1.0, steps=(0, 1000))
    assert counted.verdict(law, "case").status == "undetermined"


@pytest.mark.parametrize("law", PARTS)
def test_regime(counted, law):
    counted.record("active_modes", [5.0, 4.0, 3.0], layer="case", stderr=0.0, steps=(0, 800, 1000))
    assert counted.verdict(law, "case").status == "undetermined"
    counted.record(PARTS[law], 0.0, layer="case", stderr=0.0)
    assert counted.verdict(law, "case").status == "out of regime"
    counted.forget(PARTS[law])
    assert counted.verdict(law, "").status == "undetermined"


def test_each_theory_speaks_of_its_own_cases(counted):
    counted.forget("vae_threshold")
    assert counted.verdict("posterior_collapse", "").status == "undetermined"
    assert counted.verdict("dimensional_collapse", "case").status == "holds"


def test_strengths(empty):
    for mode, theory in enumerate((2.0, 1.0, 0.0)):
        layer = f"mode {mode}"
        empty.record("mode_strength_predicted", theory, layer=layer, stderr=0.0)
        empty.record("mode_strength", [0.5, 1.03 * theory + 0.01], layer=layer, stderr=0.0)
    assert empty.verdict("mode_strength", "mode 0").status == "holds"
    assert empty.verdict("mode_strength", "mode 2").status == "holds"
    empty.record("mode_strength", [0.5, 0.05], layer="mode 2", stderr=0.0)
    assert empty.verdict("mode_strength", "mode 2").status == "violated"
    for value, error, status in (
        (1.02, 0.01, "holds"), (1.2, 0.2, "undetermined"), (1.2, 0.01, "violated"),
        (float("nan"), 0.01, "undetermined"),
    ):  # fmt: skip
        empty.record("mode_strength", [0.5, value], layer="mode 1", stderr=error)
        assert empty.verdict("mode_strength", "mode 1").status == status
    empty.forget("mode_strength_predicted")
    assert empty.verdict("mode_strength", "mode 1").status == "undetermined"


def report(empty, layer, steps, strengths, predicted, threshold, price):
    """Rows as a world writes them: counts and strengths beside their predictions."""
    empty.record(threshold, price, layer=layer, stderr=0.0)
    counts = [float((s > 1e-2 * max(predicted.max(), s.max())).sum()) for s in strengths]
    empty.record("active_modes", counts, layer=layer, stderr=0.0, steps=steps)
    empty.record(
        "active_modes_predicted", float((predicted > 0).sum()), layer=layer, stderr=0.0, steps=steps
    )
    for i, theory in enumerate(predicted):
        where = f"{layer}, mode {i + 1}"
        path = [float(s[i]) for s in strengths]
        empty.record("mode_strength", path, layer=where, stderr=0.0, steps=steps)
        empty.record("mode_strength_predicted", float(theory), layer=where, stderr=0.0, steps=steps)


def descend(loss, parameters, steps, rate):
    """Adam at a falling rate; yields before the first step and after every eighth of them."""
    solver = torch.optim.Adam(parameters, rate)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps)
    for step in range(steps + 1):
        if step % (steps // 8) == 0:
            yield step
        solver.zero_grad()
        loss().backward()
        solver.step()
        slower.step()


@pytest.mark.parametrize("gamma", [0.1, 0.7])
def test_a_contrastive_encoder_descends_to_its_closed_form(empty, gamma):
    """The population InfoNCE of Gaussian data: counts and strengths of WᵀW."""
    A0, C = np.diag([1.0, 0.5, 0.2, 0.05]), 0.5 * np.eye(4)
    S, pull = (torch.tensor(m) for m in (A0 + C, C + gamma * np.eye(4)))
    W = (0.3 * torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).double()
    W.requires_grad_()
    eye = torch.eye(4, dtype=torch.float64)

    def loss():
        P = W @ S @ W.T
        bound = torch.logdet(eye + P) + torch.trace(P @ torch.linalg.inv(eye + P))
        return torch.trace(W @ pull @ W.T) - bound / 2

    steps, seen = [], []
    for step in descend(loss, [W], 800, 0.05):
        steps.append(step)
        seen.append(torch.linalg.eigvalsh((W.T @ W).detach()).flip(0).numpy())
    theory = np.linalg.eigvalsh(linear_ssl.optimum(A0, C, gamma))[::-1].round(9)
    report(empty, "ssl", steps, seen, theory, "ssl_threshold", gamma)
    found = empty.verdict("dimensional_collapse", "ssl")
    assert (found.status, found.effect) == ("holds", linear_ssl.active_directions(A0, gamma))
    for i in range(4):
        assert empty.verdict("mode_strength", f"ssl, mode {i + 1}").status == "holds"
    # The threshold of another γ predicts another number.
    empty.record("active_modes_predicted", 4.0, layer="ssl", stderr=0.0, steps=(0, 800))
    assert empty.verdict("dimensional_collapse", "ssl").status == "violated"


@pytest.mark.parametrize(("beta", "alive"), [(1.0, 3), (3.0, 1)])
def test_a_variational_encoder_descends_to_its_closed_form(empty, beta, alive):
    """A linear β-VAE on data of covariance diag(ζ²), learned variances."""
    zeta2 = torch.tensor([4.0, 2.0, 1.5, 0.5], dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    W, U = ((0.3 * torch.randn(4, 4, generator=g)).double().requires_grad_() for _ in range(2))
    log_s2 = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def loss():
        s2, residual = log_s2.exp(), torch.eye(4, dtype=torch.float64) - U @ W.T
        fit = (residual.square() * zeta2).sum() + (U.square() * s2).sum()
        prior = (W.square().T * zeta2).sum() + (s2 - 1 - log_s2).sum()
        return fit / 2 + beta * prior / 2

    steps, seen = [], []
    for step in descend(loss, [W, U, log_s2], 1600, 0.05):
        steps.append(step)
        seen.append(torch.linalg.svdvals(U.detach()).numpy())
    modes = linear_vae.learned_variance(zeta2.sqrt().numpy(), beta)
    report(empty, "vae", steps, seen, modes.u, "vae_threshold", beta)
    found = empty.verdict("posterior_collapse", "vae")
    assert (found.status, found.effect) == ("holds", alive)
    for i in range(4):
        assert empty.verdict("mode_strength", f"vae, mode {i + 1}").status == "holds"
