"""A checkpoint restores every bit of a run, holds no pickle, and says what is wrong with it."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lawful.lab.checkpoint import resume, save
from lawful.lab.models import GPT, MLP, seeded
from lawful.record import RecordError

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.9, 0.95), amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),
}


def mlp():
    return MLP(6, 3, width=5, depth=2)


def gpt():
    """Input and output embedding tied: two names of one tensor."""
    model = GPT(7, context=6, depth=2, heads=2, width=8)
    model.head.weight = model.token.weight
    return model


def normed():
    """BatchNorm has buffers, one of them a whole number; dropout draws from the random stream."""
    return nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3)
    )


MODELS = {"mlp": mlp, "gpt": gpt, "normed": normed}


def start(kind, optimizer):
    with seeded(0):
        model = MODELS[kind]()
    return model, OPTIMIZERS[optimizer](model.parameters())


def go(kind, model, optimizer, steps):
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        if kind == "gpt":
            x = torch.randint(7, (4, 6), generator=draw)
        else:
            x = torch.randn(8, 6, generator=draw)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def bits(model, optimizer):
    """Every number of a run, by name; NaN-proof equality is not needed here."""
    found = {f"model.{name}": t for name, t in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{name}": torch.as_tensor(v) for name, v in state.items()}
    return found | {"random": torch.get_rng_state()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(kind, optimizer, tmp_path):
    path = tmp_path / "c"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        whole = start(kind, optimizer)
        go(kind, *whole, range(12))
        expected = bits(*whole)

        torch.manual_seed(1)
        first = start(kind, optimizer)
        go(kind, *first, range(7))
        save(path, *first, 7)
        go(kind, *first, range(7, 9))  # lost: the process was killed after the checkpoint

        torch.manual_seed(2)
        second = start(kind, optimizer)
        steps = resume(path, *second)
        assert steps == 7
        go(kind, *second, range(steps, 12))
        assert_same(bits(*second), expected)
    assert second[1].param_groups[0].keys() == whole[1].param_groups[0].keys()
    options = [{k: v for k, v in o.param_groups[0].items() if k != "params"} for _, o in
               (whole, second)]  # fmt: skip
    assert options[0] == options[1]


def test_tied_weights_are_kept_once_and_stay_tied(tmp_path):
    model, optimizer = start("gpt", "momentum")
    save(tmp_path / "c", model, optimizer, 1)
    names = [name for name in load_file(tmp_path / "c") if name.startswith("model.")]
    assert ("model.token.weight" in names) is not ("model.head.weight" in names)
    other, optimizer = start("gpt", "momentum")
    resume(tmp_path / "c", other, optimizer)
    assert other.head.weight is other.token.weight


def test_training_after_resuming_does_not_write_into_the_file(tmp_path):
    model, optimizer = start("mlp", "momentum")
    go("mlp", model, optimizer, range(3))
    save(tmp_path / "c", model, optimizer, 3)
    before = (tmp_path / "c").read_bytes()
    model, optimizer = start("mlp", "momentum")
    resume(tmp_path / "c", model, optimizer)
    go("mlp", model, optimizer, range(3, 6))
    assert (tmp_path / "c").read_bytes() == before


def test_it_is_one_open_file_without_pickle(tmp_path):
    model, optimizer = start("normed", "Adam")
    go("normed", model, optimizer, range(2))
    save(tmp_path / "c", model, optimizer, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    with safe_open(tmp_path / "c", framework="np") as file:
        header = json.loads(file.metadata()["lawful"])
        names = set(file.keys())
    assert (header["format"], header["step"], header["optimizer"]) == (1, 2, "Adam")
    assert {"model.0.weight", "model.1.num_batches_tracked", "random.cpu"} <= names
    assert {"optimizer.state.0.step", "optimizer.state.0.exp_avg"} <= names
    # A pickle of protocol 2 and later starts with \x80 and its number; torch's lie in a zip.
    assert not (tmp_path / "c").read_bytes().startswith((b"\x80", b"PK"))


def test_a_file_that_is_not_there_is_no_step_taken(tmp_path):
    assert resume(tmp_path / "none", *start("mlp", "SGD")) == 0


def damaged(path, how):
    whole = path.read_bytes()
    if how == "no checkpoint":
        path.write_bytes(b"no checkpoint")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "one byte short":
        path.write_bytes(whole[:-1])
    elif how == "a pickle":
        torch.save({"step": 1}, path)
    elif how == "a foreign safetensors file":
        save_file({"x": torch.zeros(2)}, path)
    elif how == "a later format":
        save_file({"x": torch.zeros(2)}, path, {"lawful": '{"format": 2}'})


@pytest.mark.parametrize(
    "how",
    ["no checkpoint", "empty", "half", "one byte short", "a pickle", "a foreign safetensors file",
     "a later format"],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_named_in_one_sentence(how, tmp_path):
    path = tmp_path / "bad"
    save(path, *start("mlp", "SGD"), 1)
    damaged(path, how)
    with pytest.raises(ValueError, match="bad is not a checkpoint of this model") as caught:
        resume(path, *start("mlp", "SGD"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("saved", "here", "reason"),
    [
        (("normed", "SGD"), ("mlp", "SGD"), "state_dict for MLP: Missing key"),
        (("mlp", "Adam"), ("mlp", "SGD"), "it was made with Adam"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(saved, here, reason, tmp_path):
    model, optimizer = start(*saved)
    go(saved[0], model, optimizer, range(2))
    save(tmp_path / "other", model, optimizer, 2)
    with pytest.raises(ValueError, match=f"not a checkpoint of this model .*{reason}"):
        resume(tmp_path / "other", *start(*here))


def test_a_folder_that_cannot_be_written_is_named_and_the_old_file_stays(tmp_path, monkeypatch):
    model, optimizer = start("mlp", "SGD")
    with pytest.raises(RecordError, match=r"cannot be written .*make room or choose another"):
        save(tmp_path / "nowhere" / "c", model, optimizer, 1)

    path = tmp_path / "c"
    save(path, model, optimizer, 1)
    before = path.read_bytes()

    def full(tensors, draft, metadata):
        draft.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lawful.lab.checkpoint.save_file", full)
    with pytest.raises(RecordError, match="No space left"):
        save(path, model, optimizer, 2)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_what_is_no_tensor_and_no_number_is_refused(tmp_path):
    model, optimizer = start("mlp", "SGD")
    optimizer.param_groups[0]["note"] = object()
    with pytest.raises(TypeError, match=r"optimizer.param_groups.0.note is a object"):
        save(tmp_path / "c", model, optimizer, 1)
