"""The default recipe on real photos with the ImageNet weights."""

import json

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(photo_paths, tmp_path_factory):
    from data_prep.prepare import PrepareConfig
    from data_prep.prepare import prepare

    data = tmp_path_factory.mktemp("photos") / "data"
    prepare(PrepareConfig(source=photo_paths[0], output_dir=str(data)))
    return data


@pytest.mark.parametrize(
    "image_size, virtual_devices, accuracy", [(150, 2, 0.97), (200, 0, 0.98)]
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
    assert evaluation["images"] == 1000
    assert evaluation["accuracy"] >= accuracy
