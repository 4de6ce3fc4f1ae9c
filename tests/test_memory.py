"""Memory that runs out: the same batches, fewer images at a time.

On CPUs TensorFlow 2.21 ends the process when the system gives no more memory:
oneDNN's convolutions by a segmentation fault, those without oneDNN by an
uncaught `std::bad_alloc` (both seen under RLIMIT_AS). So a real operation asks
for 2^53 bytes here, and the real allocator refuses, as a GPU's would.
"""

import json

import pytest
import training

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


def test_steps_are_those_of_explicit_accumulation(data, tmp_path):
    """Though the step that failed had changed the weights already."""
    settings = ("--deterministic",)
    starved = training.train(
        data, tmp_path / "starved", *settings, fault="memory:2:step"
    )
    assert starved.returncode == 0, starved.stderr
    assert "as with --accumulation=2, 4 at a time" in starved.stdout
    assert "as with --accumulation=4, 2 at a time" in starved.stdout
    asked = training.train(
        data, tmp_path / "asked", *settings, "--accumulation=4"
    )
    assert asked.returncode == 0, asked.stderr
    assert training.curve(tmp_path / "starved") == training.curve(
        tmp_path / "asked"
    )
    training.assert_same(
        training.saved(tmp_path / "starved", 9),
        training.saved(tmp_path / "asked", 9),
    )


def test_several_replicas_start_again_with_what_fits(data, tmp_path):
    """Their collectives do not outlive an error: 75, and the same command."""
    words = ("--virtual_devices=2",)
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


def test_nothing_smaller_ends_in_a_message(data, tmp_path):
    done = training.train(data, tmp_path / "model", fault="memory:0:step")
    assert done.returncode == 1
    assert "does not hold one image" in done.stderr
    assert "Traceback" not in done.stderr


def test_batch_normalisation_that_learns_says_so(data, tmp_path):
    done = training.train(
        data,
        tmp_path / "model",
        *("--base=mobilenet", "--finetune_from=conv1"),
        *("--frozen_epochs=0", "--finetune_epochs=1"),
        fault="memory:4:step",
    )
    assert done.returncode == 1, done.stderr
    assert "batch normalisation that learns" in done.stderr
    assert "Traceback" not in done.stderr


def test_features_are_extracted_in_pieces(data, tmp_path):
    words = ("--feature_cache", "--finetune_epochs=0")
    whole = training.train(data, tmp_path / "whole", *words)
    pieces = training.train(
        data, tmp_path / "pieces", *words, fault="memory:4:features"
    )
    for done in (whole, pieces):
        assert done.returncode == 0, done.stderr
    assert "extracted 4 images at a time" in pieces.stdout
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
