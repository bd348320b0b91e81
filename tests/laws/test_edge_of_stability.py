"""The curvature laws on series made by hand: at the edge, beyond it, never there."""

import copy

import numpy as np
import pytest

STEPS = tuple(range(0, 1001, 20))


@pytest.fixture
def edge(empty):
    """Sharpness rising from 8 to 20 at step 400, then hovering there; 2/η = 20, no layers."""
    empty.manifest = copy.deepcopy(empty.manifest) | {"layers": []}
    return course(empty, 20.0)


def course(world, ceiling, *, top=20.0):
    rng = np.random.default_rng(0)
    rise = 8 + 12.2 * np.minimum(np.array(STEPS) / 400, 1)
    curve = np.minimum(rise, ceiling) + 0.1 * rng.normal(size=len(STEPS))
    for name in ("sharpness", "sharpness_preconditioned"):
        world.record(name, list(curve), layer="", steps=STEPS, stderr=1e-3)
    world.record("sharpness_preconditioned_predicted", top, layer="", steps=STEPS, stderr=0.0)
    world.record("sharpness_preconditioned_bound", 0.1, layer="", steps=STEPS, stderr=0.0)
    world.record("sharpness_second", 12.0, layer="", steps=STEPS)
    return world


def test_at_the_edge(edge):
    found = edge.verdict("edge_of_stability", "")
    assert found.status == "holds"
    assert found.effect == pytest.approx(1.0, abs=0.02)
    assert edge.verdict("progressive_sharpening", "").status == "holds"


def test_a_run_that_never_crosses_is_out_of_regime(edge):
    found = course(edge, 12.0).verdict("edge_of_stability", "")
    assert found.status == "out of regime"
    assert "not reached" in found.sentence
    assert found.effect == pytest.approx(0.6, abs=0.02)


def test_a_start_above_the_edge_is_no_arrival(edge):
    """A net thrown down by its first steps has not reached the edge until it comes back up."""
    curve = [23.0, 18.5, *[10.0] * (len(STEPS) - 2)]
    edge.record("sharpness_preconditioned", curve, layer="", steps=STEPS)
    found = edge.verdict("edge_of_stability", "")
    assert found.status == "out of regime"
    assert "came to 0.93" in found.sentence
    edge.record(
        "sharpness_preconditioned", [23.0, 12.0, *[20.0] * (len(STEPS) - 2)], layer="", steps=STEPS
    )
    assert edge.verdict("edge_of_stability", "").status == "holds"


@pytest.mark.parametrize("after", [0.6, 1.3])
def test_a_run_that_leaves_the_edge_violates_it(edge, after):
    curve = [8.0 + i * 0.6 if i <= 20 else 20.0 * after for i in range(len(STEPS))]
    edge.record("sharpness_preconditioned", curve, layer="", steps=STEPS)
    found = edge.verdict("edge_of_stability", "")
    assert found.status == "violated"
    assert found.effect == pytest.approx(after, abs=0.05)


def test_a_changing_learning_rate_is_out_of_regime(edge):
    tops = [20.0 if step < 800 else 40.0 for step in STEPS]
    edge.record("sharpness_preconditioned_predicted", tops, layer="", steps=STEPS)
    found = edge.verdict("edge_of_stability", "")
    assert found.status == "out of regime"
    assert "not constant" in found.sentence


def test_loose_eigenvalues_are_no_evidence(edge):
    edge.record("sharpness_preconditioned_bound", 5.0, layer="", steps=STEPS)
    assert edge.verdict("edge_of_stability", "").status == "undetermined"


def test_an_optimiser_without_an_edge_is_out_of_regime(edge):
    edge.forget("sharpness_preconditioned_predicted")
    assert edge.verdict("edge_of_stability", "").status == "out of regime"
    edge.manifest["optimizer"] = None
    assert edge.verdict("edge_of_stability", "").status == "undetermined"


def test_a_run_whose_curvature_could_not_be_measured_is_undetermined(edge):
    edge.forget("sharpness_preconditioned", "sharpness_preconditioned_predicted")
    found = edge.verdict("edge_of_stability", "")
    assert found.status == "undetermined"
    assert "not measured" in found.sentence
    edge.manifest["optimizer"]["class"] = "Adagrad"
    found = edge.verdict("edge_of_stability", "")
    assert found.status == "out of regime"
    assert "none for this quantity under Adagrad" in found.sentence


def test_sharpness_that_falls_violates_progressive_sharpening(edge):
    falling = [10 * 0.97**i for i in range(len(STEPS))]
    edge.record("sharpness", falling, layer="", steps=STEPS, stderr=1e-3)
    edge.record("sharpness_preconditioned", falling, layer="", steps=STEPS, stderr=1e-3)
    assert edge.verdict("progressive_sharpening", "").status == "violated"


@pytest.mark.parametrize(
    ("share", "status"), [(1.0, "holds"), (0.1, "violated"), (5.0, "violated")]
)
def test_self_stabilisation(edge, share, status):
    rng = np.random.default_rng(1)
    x2 = 1e-3 * share * (1 + 0.1 * rng.normal(size=len(STEPS)))
    edge.record("oscillation2", list(x2), layer="", steps=STEPS)
    edge.record("oscillation2_predicted", 1e-3, layer="", steps=STEPS)
    assert edge.verdict("self_stabilisation", "").status == status
    edge.record("sharpness_second", 19.9, layer="", steps=STEPS)
    assert edge.verdict("self_stabilisation", "").status == "out of regime"
    edge.record("sharpness_second", 12.0, layer="", steps=STEPS)
    edge.manifest["optimizer"]["groups"][0]["momentum"] = 0.9
    assert edge.verdict("self_stabilisation", "").status == "out of regime"


@pytest.mark.parametrize(("level", "status"), [(1.0, "holds"), (0.75, "out of regime")])
def test_batch_sharpness(edge, level, status):
    rng = np.random.default_rng(2)
    rise = np.minimum(np.array(STEPS) / 300, 1) * 20 * level
    curve = rise + 0.2 * rng.normal(size=len(STEPS))
    edge.record("batch_sharpness", list(curve), layer="", steps=STEPS, n=25)
    edge.record("batch_sharpness_predicted", 20.0, layer="", steps=STEPS)
    assert edge.verdict("batch_edge_of_stability", "").status == status
    edge.record("batch_sharpness", list(curve), layer="", steps=STEPS, n=1)
    assert edge.verdict("batch_edge_of_stability", "").status == "out of regime"


def test_batch_sharpness_that_leaves_the_edge_violates_its_law(edge):
    curve = [20.0 if step < 400 else 15.0 for step in STEPS]
    edge.record("batch_sharpness", [10.0, *curve[1:]], layer="", steps=STEPS, n=25)
    edge.record("batch_sharpness_predicted", 20.0, layer="", steps=STEPS)
    found = edge.verdict("batch_edge_of_stability", "")
    assert found.status == "violated"
    assert found.effect == pytest.approx(0.75)
