"""Checkpoints: right numbers from the weights, and nothing loaded that would run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from lawful import open_run, test
from lawful.cli import cli
from lawful.inspect import Loaded, inspect, load, state_of


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


class Trap:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_the_numbers_of_a_bare_file(tmp_path: Path) -> None:
    state = net().state_dict() | {"conv.weight": torch.randn(4, 2, 3, 3), "step": torch.tensor(7)}
    state["0.weight"] = torch.diag(torch.tensor([3.0, 1.0, 1.0, 0.001]))
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    run = inspect(str(tmp_path / "model.safetensors"), tmp_path / "run", step=50)
    assert sorted(run.layers) == ["0", "2", "conv"]
    assert run.steps == [50]
    values = {q: run.at(q, "0") for q in ("rank_W", "weight_norm2", "participation_Z", "width_a")}
    assert {q: m.value for q, m in values.items() if m is not None} == pytest.approx(
        {"rank_W": 3, "weight_norm2": 11, "participation_Z": 11**2 / 83, "width_a": 4}, rel=1e-5
    )
    assert run.array("singular_values", layer="0") == pytest.approx([3, 1, 1, 0.001], rel=1e-4)
    width = run.at("width_a", "conv")
    assert width is not None
    assert width.value == 2 * 9
    assert run.manifest["model"]["parameters"] == sum(t.numel() for t in state.values())
    assert test(run) == []


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"epoch": 3, "model_state_dict": s}])
def test_a_state_dictionary_is_found_where_people_put_it(wrap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.save(wrap(net().state_dict()), tmp_path / "a.pt")
    assert state_of(tmp_path / "a.pt").keys() == net().state_dict().keys()


def test_what_would_run_is_refused_and_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"model": net().state_dict(), "x": Trap(mark)}, tmp_path / "trap.pt")
    (tmp_path / "raw.bin").write_bytes(pickle.dumps(Trap(mark), protocol=2))
    torch.save(net(), tmp_path / "whole.pt")
    for name in ("trap.pt", "raw.bin", "whole.pt"):
        with pytest.raises(ValueError, match=r"refused: it holds more than tensors"):
            load(str(tmp_path / name))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.safetensors", b"\xff" * 40, "not a whole safetensors file"),
        ("a.pt", b"nothing", "refused|cannot be read"),
        ("a.pkl", b"", "refused: of files with weights only"),
        ("a.onnx", b"", "refused: of files with weights only"),
    ],
)
def test_other_files_are_refused(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        load(str(tmp_path / name))


def test_refusals_say_what_would_do(tmp_path: Path) -> None:
    torch.save({"losses": [1.0, 2.0]}, tmp_path / "log.pt")
    with pytest.raises(ValueError, match=r"holds no weights \(keys losses\)"):
        load(str(tmp_path / "log.pt"))
    with pytest.raises(ValueError, match=r"module:function"):
        load("resnet18")
    with pytest.raises(ValueError, match="neither"):
        load(str(tmp_path))
    state = Loaded(state=net().state_dict())
    with pytest.raises(ValueError, match="batches need a model"):
        inspect(state, tmp_path / "a", batches=[(1, 1)])
    with pytest.raises(ValueError, match=r"laws=crh need more than W.*--data"):
        inspect(state, tmp_path / "a", laws="crh")
    with pytest.raises(ValueError, match="step=0"):
        inspect(state, tmp_path / "a", step=0)


def test_with_data_the_probe_tells_the_rest(tmp_path: Path) -> None:
    model, x = net(), torch.randn(96, 6)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batches = [(b, b[:, :3].argmax(1)) for b in x.split(32)]
    run = inspect(Loaded(model=model), tmp_path / "run", batches=batches, loss=F.cross_entropy)
    assert run.steps == [1]
    for quantity in (
        "rga_b",
        "rank_W",
        "nc1",
        "batch_sharpness",
        "identity_gradient",
        "swap_distance",
    ):
        assert len(run.table(quantity=quantity)), quantity
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    verdicts = {(v.law, v.layer): v for v in test(run)}
    # Nothing is known of the initialisation: no law of formation may call itself settled.
    assert verdicts["rga_b", "2"].status in ("undetermined", "violated", "out of regime")
    assert any(v.status == "holds" for v in verdicts.values() if v.law.startswith("equivariance"))
    assert not {"neural_scaling", "double_descent", "rate_transfer"} & set(run.manifest["laws"])
    assert run.manifest["status"] == "finished"


@pytest.mark.filterwarnings("ignore:lawful, step 1. measuring failed")
def test_data_that_the_model_does_not_take_are_refused(tmp_path: Path) -> None:
    batches = [(torch.randn(8, 5), torch.zeros(8, dtype=torch.int64))]
    with pytest.raises(ValueError, match=r"nothing could be measured.*shapes cannot be multiplied"):
        inspect(Loaded(model=net()), tmp_path / "run", batches=batches, loss=F.cross_entropy)


def test_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inspected_model.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(64, 10))\n"
    )
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Linear(64, 10)).state_dict(), "w.pt")
    words = ["inspect", "inspected_model:build", "--weights", "w.pt", "--out", "run"]
    options = ["--data", "digits", "--samples", "300", "--laws", "canonical", "--laws", "nc1"]
    found = CliRunner().invoke(cli, [*words, *options])
    assert (found.exit_code, found.stdout) == (0, "run\n"), found.output
    norm = open_run(tmp_path / "run").at("weight_norm2", "0")
    assert norm is not None
    weight = state_of(tmp_path / "w.pt")["0.weight"]
    assert norm.value == pytest.approx(float(weight.square().sum()))
    assert open_run(tmp_path / "run").at("nc1", "0") is not None
    for arguments, says in (
        (["w.pt", "--data", "digits"], "need a model"),
        (["w.pt", "--weights", "w.pt"], "has none"),
        (["inspected_model:built"], "no attribute 'built'"),
        (["inspected_model:build", "--weights", "run/manifest.json"], "is refused"),
    ):
        refused = CliRunner().invoke(cli, ["inspect", *arguments, "--out", "other"])
        assert (refused.exit_code, refused.stdout) == (2, ""), refused.output
        assert says in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_a_transformer_saved_in_a_folder(tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers", reason="needs transformers")
    config = hf.GPT2Config(vocab_size=17, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    config.bos_token_id = config.eos_token_id = 0
    model = hf.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "gpt")
    loaded = load(str(tmp_path / "gpt"))
    assert type(loaded.model).__name__ == "GPT2LMHeadModel"
    run = inspect(loaded, tmp_path / "run")
    assert "transformer.h.0.mlp.c_fc" in run.layers
    ids = torch.randint(17, (8, 8))
    batches = [(ids[:4], ids[:4]), (ids[4:], ids[4:])]
    again = inspect(
        loaded, tmp_path / "probed", laws="canonical", batches=batches,
        loss=lambda f, y: F.cross_entropy(f.logits.mT, y),
    )  # fmt: skip
    assert again.at("rga_b", "transformer.h.0.mlp.c_fc") is not None
    with pytest.raises(ValueError, match="transformers cannot load 'no/such-model-here'"):
        load("transformers:no/such-model-here")


MAKERS = """
def vision():
    import torchvision
    return torchvision.models.squeezenet1_1(num_classes=4).eval()

def token():
    import timm
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, patch_size=8)
"""


@pytest.mark.parametrize(
    ("library", "source", "layer", "sides"),
    [
        ("torchvision", "torchvision.models:squeezenet1_1", "features.0", (27, 64)),
        ("torchvision", "made_elsewhere:vision", "classifier.1", (512, 4)),
        ("timm", "made_elsewhere:token", "blocks.0.attn.qkv", (192, 576)),
    ],
)
def test_factories_of_the_libraries_without_weights(
    library: str, source: str, layer: str, sides: tuple[int, int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pytest.importorskip(library, reason=f"needs {library}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made_elsewhere.py").write_text(MAKERS)
    found = CliRunner().invoke(cli, ["inspect", source, "--out", "run"])
    assert (found.exit_code, found.stdout) == (0, "run\n"), found.output
    run = open_run(tmp_path / "run")
    widths = [run.at(q, layer) for q in ("width_a", "width_b")]
    assert tuple(m.value for m in widths if m is not None) == sides
    again = CliRunner().invoke(cli, ["inspect", source, "--out", "run"])
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
    assert "holds a run" in again.stderr


def test_the_names_of_torchvision_and_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights as the libraries would have put them into their cache; nothing is downloaded."""
    tv = pytest.importorskip("torchvision", reason="needs torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = tv.models.get_model_weights("squeezenet1_1").DEFAULT
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    model = tv.models.squeezenet1_1()
    torch.save(model.state_dict(), cache / weights.url.rpartition("/")[2])
    found = load("torchvision:squeezenet1_1").model
    assert found is not None
    assert torch.equal(found.state_dict()["features.0.weight"], model.features[0].weight)
    with pytest.raises(ValueError, match="torchvision cannot load 'no_such_net'"):
        load("torchvision:no_such_net")
    pytest.importorskip("timm", reason="needs timm")
    with pytest.raises(ValueError, match="timm cannot load 'no_such_net'"):
        load("timm:no_such_net")
