"""What an experiment is: its settings and their errors, its plan, its bands, its resumption."""

import math
import os
import signal
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lawful import open_run
from lawful.lab.checkpoint import CHECKPOINT
from lawful.lab.experiment import Band, Experiment, Settings, experiment, experiments, on, setting
from lawful.lab.experiments import canonical_digits
from lawful.lab.training import NonFiniteLoss
from lawful.record.manifest import write_manifest

DIGITS = experiment("canonical-digits")
DECAY = experiment("canonical-decay")


def test_the_registry_lists_the_canonical_six_first_and_each_with_a_sentence():
    assert list(experiments())[:6] == [
        f"canonical-{name}" for name in ("digits", "decay", "width", "conv", "gpt", "ssl")
    ]
    for name, one in experiments().items():
        assert one.name == name
        assert one.statement.endswith(".")
        assert one.bands
        assert one.configure(["scale=paper"]).scale == "paper"


def test_an_unknown_experiment_names_the_nearest():
    with pytest.raises(KeyError, match="did you mean canonical-digits"):
        experiment("canonical-digit")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("weightdecay=1", "unknown setting 'weightdecay': did you mean weight_decay"),
        ("steps", "'steps' is not of the form key=value. Valid: scale, device"),
        ("steps=many", "setting steps='many': a whole number is needed"),
        ("weight_decay=x", "setting weight_decay='x': a number is needed"),
        ("bias=maybe", "setting bias='maybe': true or false is needed"),
        ("labels=false", "setting labels='false': use one of true, permuted"),
        ("width=0", "setting width='0': a whole number ≥ 1 is needed"),
        ("measurements=1", "setting measurements='1': a whole number ≥ 2 is needed"),
        ("depth=-1", "setting depth='-1': a whole number ≥ 1 is needed"),
        ("weight_decay=-1", "setting weight_decay='-1': a finite number ≥ 0 is needed"),
        ("learning_rate=nan", "setting learning_rate='nan': a finite number ≥ 0 is needed"),
    ],
)
def test_a_wrong_setting_names_the_key_and_the_remedy(pair, message):
    with pytest.raises(ValueError, match=message):
        DIGITS.configure([pair])


def test_of_several_numbers_each_is_in_range():
    with pytest.raises(ValueError, match="setting gamma='0,inf': a finite number ≥ 0 is needed"):
        DECAY.configure(["gamma=0,inf"])


def test_zero_stays_where_it_stands_for_all_and_below_it_where_the_default_is():
    assert experiment("canonical-conv").configure(["train=0"]).train == 0
    assert experiment("mup-transfer").configure(["octaves=-3,2"]).octaves == (-3, 2)
    with pytest.raises(ValueError, match="a finite number is needed"):
        experiment("mup-transfer").configure(["octaves=-3,nan"])


def test_settings_are_typed_and_what_is_given_beats_the_scale():
    settings = DIGITS.configure(["width=7", "scale=paper", "bias=false", "weight_decay=3e-4"])
    assert (settings.width, settings.bias, settings.weight_decay) == (7, False, 3e-4)
    assert settings.data == "fashion-mnist"
    assert DECAY.configure(["gamma=0,1e-3"]).gamma == (0.0, 1e-3)


def test_a_sweep_makes_one_run_a_value(tmp_path):
    plan = DECAY.plan(DECAY.configure(["gamma=0,1e-3"]), tmp_path)
    assert [folder.name for folder in plan] == ["gamma-0", "gamma-0.001"]
    assert [DECAY.describe(s)["settings"]["gamma"] for s in plan.values()] == [0.0, 1e-3]
    assert list(DECAY.plan(DECAY.configure(["gamma=1e-3"]), tmp_path)) == [tmp_path]
    close = DECAY.plan(DECAY.configure(["gamma=0.00100001,0.00100002"]), tmp_path)
    assert [s.gamma for s in close.values()] == [(0.00100001,), (0.00100002,)]


@dataclass(frozen=True)
class Knobs(Settings):
    gain: float = setting(2.0, "A number.")


class FakeRun:
    def __init__(self, gain):
        self.manifest = {"experiment": {"settings": {"gain": gain}}}


def test_bands_speak_only_of_their_settings_and_not_of_nan():
    bands = (
        Band("two", 1, 3, lambda run: 2.0, {"gain": 2.0}),
        Band("none", 1, 3, lambda run: math.nan),
    )
    toy = Experiment("toy", "A toy.", Knobs, lambda settings, job: None, bands)
    assert [ok for _, _, ok in toy.check(FakeRun(2.0))] == [True, False]
    assert [band.name for band, _, _ in toy.check(FakeRun(1.0))] == ["none"]


def test_a_device_that_is_not_there_is_named():
    assert on("cpu").type == "cpu"
    with pytest.raises(ValueError, match="device='nowhere' cannot be used"):
        on("nowhere")


# -- whole runs ----------------------------------------------------------------------------------

SHORT = ["steps=40", "measurements=4", "width=16", "depth=2", "device=cpu"]


def weights(folder):
    kept = load_file(folder / CHECKPOINT)
    return {name: tensor for name, tensor in kept.items() if name.startswith("model.")}


def test_an_interrupted_experiment_resumes_bit_for_bit(tmp_path, monkeypatch):
    settings = DIGITS.configure(SHORT)
    whole = DIGITS.run(settings, tmp_path / "whole", progress=False)

    plain, calls = canonical_digits.cross_entropy, []

    def interrupting(output, y):
        calls.append(1)
        if len(calls) == 35:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(output, y)

    monkeypatch.setattr(canonical_digits, "cross_entropy", interrupting)
    with pytest.raises(KeyboardInterrupt):
        DIGITS.run(settings, tmp_path / "cut", progress=False)
    cut = open_run(tmp_path / "cut")
    assert cut.manifest["status"] == "interrupted"
    assert 0 < cut.manifest["steps"] < 40

    resumed = DIGITS.run(settings, tmp_path / "cut", progress=False, resume=True)
    assert resumed.manifest["status"] == "finished"
    assert resumed.manifest["steps"] == 40
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert a
    assert all(torch.equal(a[name], b[name]) for name in a)
    for layer in ("fc0", "fc2"):
        assert resumed.at("rga_b", layer).value == whole.at("rga_b", layer).value
    # A finished run is left as it is.
    before = (tmp_path / "cut" / CHECKPOINT).stat().st_mtime_ns
    DIGITS.run(settings, tmp_path / "cut", progress=False, resume=True)
    assert (tmp_path / "cut" / CHECKPOINT).stat().st_mtime_ns == before


def test_a_batch_that_cannot_be_dealt_leaves_no_run_behind(tmp_path):
    with pytest.raises(ValueError, match="batch=5000"):
        DIGITS.run(DIGITS.configure([*SHORT, "batch=5000"]), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_data_is_refused(tmp_path):
    draw = np.random.default_rng(0)
    own, out = tmp_path / "own.npz", tmp_path / "run"
    settings = DIGITS.configure([*SHORT, "steps=3", f"data={own}"])
    np.savez(own, x=draw.normal(size=(40, 3)), y=np.arange(40) % 2)
    run = DIGITS.run(settings, out, progress=False)
    write_manifest(out, run.manifest | {"status": "interrupted"})
    DIGITS.run(settings, out, progress=False, resume=True)
    write_manifest(out, run.manifest | {"status": "interrupted"})
    np.savez(own, x=draw.normal(size=(40, 3)), y=np.arange(40) % 2)
    with pytest.raises(ValueError, match=r"was made with other data \(own, sha256"):
        DIGITS.run(settings, out, progress=False, resume=True)


def test_resuming_with_other_settings_is_refused(tmp_path):
    DIGITS.run(DIGITS.configure([*SHORT, "steps=3"]), tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"was made with steps=3, not steps=40"):
        DIGITS.run(DIGITS.configure(SHORT), tmp_path, progress=False, resume=True)
    with pytest.raises(ValueError, match=r"made with seed=0, not seed=1"):
        DIGITS.run(DIGITS.configure([*SHORT, "steps=3"]), tmp_path, 1, progress=False, resume=True)


def test_an_exploding_run_leaves_a_readable_record(tmp_path):
    settings = DIGITS.configure([*SHORT, "learning_rate=1e20", "activation=linear"])
    with (
        pytest.warns(UserWarning, match="lawful"),
        pytest.raises(NonFiniteLoss, match="lower the learning rate"),
    ):
        DIGITS.run(settings, tmp_path, progress=False)
    run = open_run(tmp_path)
    assert run.manifest["status"] == "failed"
    assert run.first("rga_b", "fc2").step == 0
