"""--tracker: MLflow's own file store, and Weights & Biases without network."""

import importlib.util
import pathlib
import sys
import types

import pytest
from training import lines
from training import prepare
from training import train_here

from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.engine import start_rule
from trainer.engine import trackers


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("trackers"))


def stop_in_epoch(number):
    """Returns a callback that ends the process's run, as a crash would."""
    import keras

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == number:
                raise InterruptedError

    return Stop()


@pytest.mark.slow
def test_mlflow_has_one_run_of_all_epochs(data, tmp_path, tf, monkeypatch):
    pytest.importorskip("mlflow")
    import mlflow

    store = f"file:{tmp_path / 'store'}"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    model = tmp_path / "model"
    with pytest.raises(InterruptedError):
        train_here(data, model, [stop_in_epoch(2)], tracker="mlflow")
    mlflow.end_run("KILLED")
    done = train_here(data, model, tracker="mlflow", dropout=0.0)
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED" and run.info.run_name == "model"
    assert run.data.params["base"] == "scratch"
    rows = lines(model / "metrics.jsonl")
    history = client.get_metric_history(run.info.run_id, "val_loss")
    assert {one.step: one.value for one in history} == {
        row["epoch"]: row["val_loss"] for row in rows
    }
    assert run.data.metrics["test_accuracy"] == done["evaluation"]["accuracy"]
    (page,) = client.list_artifacts(run.info.run_id)
    assert page.path == "report.html"


@pytest.mark.slow
def test_weights_and_biases_off_line(data, tmp_path, tf, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    model = tmp_path / "model"
    train_here(data, model, tracker="wandb", finetune_epochs=1)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    run = (model / "tracker.txt").read_text()
    assert folder.name.endswith(run)
    (log,) = folder.glob("*.wandb")
    content = log.read_bytes()
    for name in (b"val_accuracy", b"test_accuracy", b"finetune_epochs"):
        assert name in content
    assert (folder / "files" / "report.html").exists()


def test_a_resumed_run_of_weights_and_biases_goes_on(tmp_path, monkeypatch):
    """Only its service knows a run again, so a client stands in for it."""
    asked, logged, saved = [], [], []

    def init(**options):
        asked.append(options)
        return types.SimpleNamespace(
            id=options["id"] or "new",
            log=logged.append,
            save=lambda path, **_: saved.append(path),
            finish=lambda: saved.append("finished"),
        )

    fake = types.SimpleNamespace(init=init)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = Config("data", str(tmp_path / "mine"), tracker="wandb")
    for _ in range(2):
        tracker = trackers.create(config)
    assert tracker.identity == (tmp_path / "mine/tracker.txt").read_text()
    found = [(one["id"], one["resume"], one["name"]) for one in asked]
    assert found == [(None, None, "mine"), ("new", "allow", "mine")]
    # The exported epoch is logged last, though others came after it.
    tracker.on_epoch_end(4, {"loss": 1.0})
    tracker.log({"test_accuracy": 0.5}, 3)
    assert logged == [
        {"loss": 1.0, "epoch": 5},
        {"test_accuracy": 0.5, "epoch": 3},
    ]
    tracker.finish(pathlib.Path("report.html"))
    assert saved == ["report.html", "finished"]


def test_a_missing_tracker_is_named_before_anything(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'shardtune\[wandb\]'"):
        start_rule.check(Config("data", "model", tracker="wandb"))
