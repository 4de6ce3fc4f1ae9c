"""What TensorBoard is given, read by TensorBoard's own reader."""

import errno
import json
import resource

import pytest
from training import lines
from training import prepare
from training import train_here


@pytest.fixture(scope="module")
def model(tmp_path_factory, tf):
    root = tmp_path_factory.mktemp("events")
    data = prepare(root)
    train_here(data, root / "model", augment="light", dropout=0.25)
    return root / "model"


@pytest.fixture(scope="module")
def events(model):
    from tensorboard.backend.event_processing import event_accumulator

    found = event_accumulator.EventAccumulator(
        str(model / "tensorboard"), {event_accumulator.TENSORS: 0}
    )
    return found.Reload()


def scalars(events, name):
    from tensorboard.util import tensor_util

    return {
        event.step: float(tensor_util.make_ndarray(event.tensor_proto))
        for event in events.Tensors(name)
    }


def test_one_start_makes_one_file_of_all_epochs(model, events):
    assert len(list((model / "tensorboard").iterdir())) == 1
    rows = lines(model / "metrics.jsonl")
    assert len(rows) == 3
    for name in ("loss", "val_accuracy", "learning_rate"):
        wanted = {row["epoch"]: row[name] for row in rows}
        assert scalars(events, name) == pytest.approx(wanted)


def test_the_end_has_settings_figures_and_pictures(model, events):
    from tensorboard.plugins.hparams import metadata

    done = json.loads((model / "DONE.json").read_text())
    epoch = done["exported"]["epoch"]
    assert scalars(events, "test_accuracy") == pytest.approx(
        {epoch: done["evaluation"]["accuracy"]}
    )
    start = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    said = metadata.parse_session_start_info_plugin_data(
        start.plugin_data.content
    ).hparams
    assert said["dropout"].number_value == 0.25
    assert said["augment"].string_value == "light"
    for name in ("confusion_matrix", "augmented"):
        (event,) = events.Tensors(name)
        width, height, picture = event.tensor_proto.string_val
        assert int(width) > 100 < int(height)
        assert picture.startswith(b"\x89PNG")


def test_a_full_disk_is_named(tf, tmp_path):
    """TensorFlow keeps but the text of what the system said."""
    from trainer.engine import event_file

    row = {"phase": "frozen", "epoch": 1, "loss": 1.0}
    event_file.add_epoch(tmp_path, row)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError) as error:
            event_file.add_epoch(tmp_path, row)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(tmp_path)
