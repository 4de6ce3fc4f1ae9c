"""Memory that runs out: the same batches, fewer images at a time.

On CPUs TensorFlow 2.21 ends the process when the system gives no more memory:
oneDNN's convolutions by a segmentation fault, those without oneDNN by an
uncaught `std::bad_alloc` (both seen under RLIMIT_AS). So a real operation asks
for 2^53 bytes here, and the real allocator refuses, as a GPU's would.
"""

import json

import faults
import pytest
import training
from training import train_here

from data_prep.runtime.errors import TrainingError
from trainer.distribution import memory


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return training.prepare(tmp_path_factory.mktemp("memory"))


@pytest.mark.parametrize(
    "share, pieces, wanted", [(8, 1, 2), (8, 4, 8), (6, 2, 6), (7, 1, 7)]
)
def test_pieces_divide_the_share(share, pieces, wanted):
    assert memory.more_pieces(share, pieces, MemoryError()) == wanted


def test_one_image_that_does_not_fit_is_said():
    with pytest.raises(TrainingError, match="one image: so much.*image_size"):
        memory.more_pieces(4, 4, MemoryError("so much\nand a trace"))


@pytest.fixture
def starve(tf, monkeypatch):
    """Lets steps, or the base, ask for more memory than so many images do."""
    from trainer.engine import train_step
    from trainer.feature_extraction import extractor

    for owner, name in (
        (train_step, "make_replica_step"),
        (extractor.Extractor, "_features_of"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))

    return faults.starve


@pytest.mark.slow
def test_steps_are_those_of_explicit_accumulation(
    data, tmp_path, deterministic, starve, capsys
):
    """Though the step that failed had changed the weights already."""
    phase = dict(frozen_epochs=0, finetune_epochs=1, deterministic=True)
    train_here(data, tmp_path / "asked", **phase, accumulation=4)
    starve("step", 2)
    train_here(data, tmp_path / "starved", **phase)
    said = capsys.readouterr().out
    assert "as with --accumulation=2, 4 at a time" in said
    assert "as with --accumulation=4, 2 at a time" in said
    starved, asked = tmp_path / "starved", tmp_path / "asked"
    assert training.curve(starved) == training.curve(asked)
    training.assert_same(
        training.saved(starved, training.STEPS),
        training.saved(asked, training.STEPS),
    )


@pytest.mark.slow
def test_several_replicas_start_again_with_what_fits(data, tmp_path):
    """Their collectives do not outlive an error: 75, and the same command."""
    words = ("--virtual_devices=2", "--finetune_epochs=0")
    model = tmp_path / "model"
    cut = training.train(data, model, *words, fault="memory:2:step")
    assert cut.returncode == 75, cut.stderr
    assert "as with --accumulation=2, 2 at a time" in cut.stderr
    assert json.loads((model / "accumulation.json").read_text()) == {
        "accumulation": 2
    }
    again = training.train(data, model, *words, fault="memory:2:step")
    assert again.returncode == 0, again.stderr
    assert "memory ran out" not in again.stdout


@pytest.mark.slow
def test_nothing_smaller_ends_in_a_message(data, tmp_path, starve):
    starve("step", 0)
    with pytest.raises(TrainingError, match="does not hold one image"):
        train_here(data, tmp_path / "model", batch_size=2)


@pytest.mark.slow
def test_batch_normalisation_that_learns_says_so(data, tmp_path, starve):
    starve("step", 4)
    with pytest.raises(TrainingError, match="batch normalisation that learns"):
        train_here(
            data,
            tmp_path / "model",
            base="mobilenet",
            finetune_from="conv1",
            frozen_epochs=0,
            finetune_epochs=1,
        )


@pytest.mark.slow
def test_features_are_extracted_in_pieces(data, tmp_path, starve, capsys):
    settings = dict(feature_cache=True, finetune_epochs=0)
    train_here(data, tmp_path / "whole", **settings)
    assert "at a time" not in capsys.readouterr().out
    starve("features", 4)
    train_here(data, tmp_path / "pieces", **settings)
    assert "extracted 4 images at a time" in capsys.readouterr().out
    for one, other in zip(
        training.curve(tmp_path / "whole"),
        training.curve(tmp_path / "pieces"),
        strict=True,
    ):
        assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.slow
def test_several_workers_stop_and_agree(data, tmp_path):
    """Where the second worker alone has too little memory."""

    def both(second):
        commands = [
            training.command(data, tmp_path / "model", program=program)
            for program in (("-m", "trainer.task"), second)
        ]
        return training.finish(training.start_workers(commands))

    starved = (training.FAULTS, "memory:2:step")
    codes, outputs = both(starved)
    assert codes == [75, 75], outputs
    assert "--accumulation=2" in outputs[1]
    codes, outputs = both(starved)
    assert codes == [0, 0], outputs
