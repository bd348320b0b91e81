"""The lasso's world: FISTA against scikit-learn, and its form with signs held."""

import numpy as np
import torch
from sklearn.linear_model import Lasso

from lawful.lab.experiments import spred_lasso as world
from lawful.methods import matched_decay


def problem(seed=0):
    settings = world.SpredLasso(inputs=20, samples=100, relevant=5)
    return world.Problem.draw(settings, torch.Generator().manual_seed(seed))


def test_fista_is_the_lasso_of_scikit_learn_at_the_matched_strength():
    one = problem()
    alphas = [0.05, 0.3]
    decay = torch.tensor([matched_decay(a, loss_factor=2) for a in alphas], dtype=torch.float64)
    found = world.fista(one, decay)
    root = torch.linalg.cholesky(one.G, upper=True)  # any X with XᵀX = nG has the same lasso
    X, y = root.numpy(), torch.linalg.solve(root.T, one.c).numpy()
    for row, alpha in zip(found, alphas, strict=True):
        theirs = Lasso(alpha=alpha / len(y), fit_intercept=False, tol=1e-12, max_iter=100_000)
        theirs.fit(X, y)
        assert np.allclose(row, theirs.coef_, atol=1e-7)
        assert np.array_equal(row != 0, theirs.coef_ != 0)


def test_signs_are_kept_and_the_rest_is_stationary():
    one, signs = problem(), torch.ones(20).double()
    w = world.fista(one, torch.tensor([0.2], dtype=torch.float64), signs)[0]
    force = one.gradient(w[None])[0] + 0.2
    assert bool((w >= 0).all())
    assert float(force[w > 0].abs().max()) < 1e-9
    assert bool((force[w == 0] > -1e-9).all())


def test_the_objective_is_the_loss_and_the_penalty():
    one, w = problem(), torch.linspace(-1, 1, 20).double()
    base = one.objective(torch.zeros(1, 20).double(), torch.zeros(1).double())
    assert float(base) == one.y2
    both = one.objective(torch.stack([w, w]), torch.tensor([0.0, 2.0]).double())
    assert torch.allclose(both[1] - both[0], 2 * w.abs().sum())
