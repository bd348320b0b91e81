"""Trainers and dashboards that people use: the real libraries, offline, over the same door."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lawful
from lawful import Verdict, callbacks, open_run
from lawful.callbacks.extra import extra
from lawful.callbacks.feed import Feed, markdown

# These libraries warn of things that are none of ours.
pytestmark = pytest.mark.filterwarnings("default")


class Kept:
    """A dashboard that keeps what it is given."""

    def __init__(self) -> None:
        self.steps: dict[int, Mapping[str, float]] = {}
        self.table: Sequence[Verdict] = ()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        assert step not in self.steps
        self.steps[step] = values

    def verdicts(self, step: int, found: Sequence[Verdict]) -> None:
        self.table = found


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def data() -> torch.utils.data.DataLoader:  # type: ignore[type-arg]
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    pairs = torch.utils.data.TensorDataset(x, x[:, :3].argmax(1))
    return torch.utils.data.DataLoader(pairs, batch_size=16)


def trained(out: Path, *, accumulation: int = 1, epochs: int = 2) -> nn.Module:
    """The same training in a plain loop, observed from inside."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-3)
    door = lawful.observe(
        model, out, optimizer=optimizer, schedule=lawful.every(1), accumulation=accumulation
    )
    with door:
        for _ in range(epochs):
            for i, (x, y) in enumerate(data()):
                (F.cross_entropy(model(x), y) / accumulation).backward()
                if (i + 1) % accumulation == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    return model


def same(one: Path, two: Path, prefix: str = "") -> None:
    a, b = (open_run(folder).table(quantity="rga_*") for folder in (one, two))
    assert len(a) > 10
    a["layer"] = a["layer"].str.removeprefix(prefix)
    columns = ["step", "layer", "quantity", "value"]
    assert a[columns].astype(str).values.tolist() == b[columns].astype(str).values.tolist()


def test_a_feed_sends_each_step_once_and_the_verdicts_at_the_end(tmp_path: Path) -> None:
    trained(tmp_path / "run", epochs=1)
    kept = Kept()
    feed = Feed(tmp_path / "run", [kept])
    feed.send()
    run = open_run(tmp_path / "run")
    assert list(kept.steps) == run.steps[:-1]
    feed.close()
    assert list(kept.steps) == run.steps
    assert {"rga_b/0", "rga_b/2", "learning_rate"} <= set(kept.steps[0])
    assert not any(name.startswith("fdt_b_weight") for name in kept.steps[0])
    assert {v.law for v in kept.table} >= {"rga_b", "crh"}


def test_a_dashboard_that_fails_is_left_out(tmp_path: Path) -> None:
    class Gone(Kept):
        def scalars(self, step: int, values: Mapping[str, float]) -> None:
            raise ConnectionError("no route to host")

    trained(tmp_path / "run", epochs=1)
    kept = Kept()
    feed = Feed(tmp_path / "run", [Gone(), kept])
    with pytest.warns(UserWarning, match="Gone gets no more of this run .*no route to host"):
        feed.close()
    assert list(kept.steps) == open_run(tmp_path / "run").steps
    assert kept.table


def test_a_name_in_a_table_of_verdicts_is_only_a_name() -> None:
    odd = Verdict("rga_b", "<b>|`\n[a](b)", 1, "holds", 0.5, (0.1, 0.9), 0.0, 0.0, "Yes.")
    (line,) = markdown([odd]).splitlines()[2:]
    assert line.startswith("| rga_b | &lt;b>&#124;&#96; &#91;a](b) | holds | 0.5 |")


def test_a_library_that_is_not_there_is_named_with_its_remedy() -> None:
    with pytest.raises(ImportError, match=r"pip install 'lawful\[lightning\]'"):
        extra("lightning_that_is_not_there", "lightning")
    with pytest.raises(AttributeError, match="Keras"):
        _ = callbacks.Keras
    assert set(callbacks.__all__) == set(dir(callbacks))


def module_of(L: Any) -> Any:
    """`net` in the form that Lightning trains."""

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch, _):  # type: ignore[no-untyped-def]
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def configure_optimizers(self):  # type: ignore[no-untyped-def]
            return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=1e-3)

    return Module()


def test_lightning(tmp_path: Path) -> None:
    L = pytest.importorskip("lightning", reason="needs the extra lightning")

    kept = Kept()
    door = callbacks.Lightning(tmp_path / "run", sinks=[kept], schedule=lawful.every(1))
    trainer = L.Trainer(
        max_epochs=2, accumulate_grad_batches=2, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[door],
    )  # fmt: skip
    module = module_of(L)
    trainer.fit(module, data())
    model = trained(tmp_path / "plain", accumulation=2)
    for p, q in zip(module.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)
    same(tmp_path / "run", tmp_path / "plain", "net.")
    assert 0 in kept.steps
    assert kept.table
    assert open_run(tmp_path / "run").manifest["status"] == "finished"


def test_a_fit_that_goes_on_leaves_the_initialisation_as_it_was(tmp_path: Path) -> None:
    L = pytest.importorskip("lightning", reason="needs the extra lightning")

    def fit(epochs: int, checkpoint: Path | None) -> None:
        again = checkpoint is not None
        door = callbacks.Lightning(tmp_path / "run", schedule=lawful.every(1), resume=again)
        trainer = L.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[door],
        )  # fmt: skip
        trainer.fit(
            module_of(L), data(), ckpt_path=checkpoint, weights_only=True if again else None
        )
        trainer.save_checkpoint(tmp_path / "epochs.ckpt")

    fit(1, None)
    start = open_run(tmp_path / "run").at("weight_norm2", "net.0", 0)
    fit(2, tmp_path / "epochs.ckpt")
    run = open_run(tmp_path / "run")
    assert run.at("weight_norm2", "net.0", 0) == start
    assert run.manifest["steps"] == 8
    assert max(run.steps) > 4


def test_fabric(tmp_path: Path) -> None:
    L = pytest.importorskip("lightning", reason="needs the extra lightning")
    fabric, bare = L.Fabric(accelerator="cpu"), net()
    sgd = torch.optim.SGD(bare.parameters(), lr=0.1, weight_decay=1e-3)
    model, optimizer = fabric.setup(bare, sgd)
    with lawful.observe(bare, tmp_path / "run", optimizer=sgd, schedule=lawful.every(1)):
        for _ in range(2):
            for x, y in data():
                fabric.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
    trained(tmp_path / "plain")
    same(tmp_path / "run", tmp_path / "plain")


class Pairs(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        x, y = data().dataset[i]
        return {"x": x, "labels": y}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_transformers(tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers", reason="needs the extra transformers")
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
    losses = []
    for name in ("bare", "run"):
        kept = Kept()
        door = callbacks.Transformers(tmp_path / "run", sinks=[kept], schedule=lawful.every(1))
        arguments = hf.TrainingArguments(
            str(tmp_path / "checkpoints"), max_steps=4, per_device_train_batch_size=8,
            gradient_accumulation_steps=2, use_cpu=True, report_to=[], logging_steps=1,
            save_strategy="no", disable_tqdm=True, seed=1,
        )  # fmt: skip
        used = [door] if name == "run" else []
        trainer = hf.Trainer(Model(), arguments, train_dataset=Pairs(), callbacks=used)
        trainer.train()
        losses.append([e["loss"] for e in trainer.state.log_history if "loss" in e])
    assert losses[0] == losses[1]
    run = open_run(tmp_path / "run")
    assert run.manifest["optimizer"]["class"] == "AdamW"
    assert run.layers == ["net.0", "net.2"]
    assert run.steps[0] == 0
    assert run.manifest["steps"] == 4
    assert len(run.series("loss", "")) == 4
    assert kept.table
    assert 0 in kept.steps


def test_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs the extra accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, data())
    door = callbacks.on_accelerate(
        accelerator, model, optimizer, tmp_path / "run", schedule=lawful.every(1)
    )
    with door:
        for _ in range(2):
            for x, y in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(F.cross_entropy(model(x), y))
                    optimizer.step()
                    optimizer.zero_grad()
    trained(tmp_path / "plain", accumulation=2)
    same(tmp_path / "run", tmp_path / "plain")


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(tmp_path / "run", epochs=1)
    Feed(tmp_path / "run", [callbacks.TensorBoard(tmp_path / "board")]).close()
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    events = board.Scalars("lawful/rga_b/2")
    series = open_run(tmp_path / "run").series("rga_b", "2")["value"]
    assert [e.step for e in events] == series.index.tolist()
    assert [e.value for e in events] == pytest.approx(series.tolist())
    (tag,) = [t for t in board.Tags()["tensors"] if "verdicts" in t]
    assert b"| rga_b | 2 |" in board.Tensors(tag)[0].tensor_proto.string_val[0]


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trained(tmp_path / "run", epochs=1)
    with pytest.raises(ValueError, match=r"wandb.init\(\)"):
        callbacks.WandB()
    with wandb.init(mode="offline", dir=str(tmp_path), project="p") as board:
        Feed(tmp_path / "run", [callbacks.WandB(board)]).close()
        summary = dict(board.summary)
    value = open_run(tmp_path / "run").at("rga_b", "2")
    assert value is not None
    assert summary["lawful/rga_b/2"] == pytest.approx(value.value)
    assert summary["lawful/step"] == value.step
    assert "lawful/verdicts" in summary


@pytest.mark.skipif(sys.platform == "win32", reason="paths as file URIs")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    trained(tmp_path / "run", epochs=1)
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "board").as_uri())
    with pytest.raises(ValueError, match=r"mlflow.start_run\(\)"):
        callbacks.MLflow()
    board = client.create_run(client.create_experiment("e"))
    Feed(tmp_path / "run", [callbacks.MLflow(board.info.run_id, client=client)]).close()
    history = client.get_metric_history(board.info.run_id, "lawful/rga_b/2")
    series = open_run(tmp_path / "run").series("rga_b", "2")["value"]
    assert sorted((m.step, m.value) for m in history) == list(series.items())
    assert [f.path for f in client.list_artifacts(board.info.run_id, "lawful")] == [
        "lawful/verdicts.md"
    ]
