"""The default recipe on real photos with the ImageNet weights."""

import json
import pathlib
import shutil

import pytest

pytestmark = pytest.mark.slow

# Photos of each of the two classes.
COUNTS = {"train": 100, "validation": 100}


@pytest.fixture(scope="module")
def data(photo_paths, tmp_path_factory):
    from data_prep.prepare import PrepareConfig
    from data_prep.prepare import prepare

    place = tmp_path_factory.mktemp("photos")
    for split, count in COUNTS.items():
        for folder in pathlib.Path(photo_paths[0], split).iterdir():
            chosen = place / "photos" / split / folder.name
            chosen.mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                shutil.copy(path, chosen)
    prepare(
        PrepareConfig(
            source=str(place / "photos"), output_dir=str(place / "data")
        )
    )
    return place / "data"


@pytest.mark.parametrize(
    "image_size, virtual_devices, accuracy", [(96, 2, 0.9), (112, 0, 0.9)]
)
def test_default_flags(
    data, photo_paths, run, tmp_path, image_size, virtual_devices, accuracy
):
    model = tmp_path / "model"
    done = run(
        "trainer.task",
        f"--data_dir={data}",
        f"--model_dir={model}",
        f"--weights={photo_paths[1]}",
        f"--image_size={image_size}",
        f"--virtual_devices={virtual_devices}",
        f"--min_accuracy={accuracy}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    evaluation = json.loads((model / "evaluation.json").read_text())
    assert evaluation["images"] == 200
    assert evaluation["accuracy"] >= accuracy
