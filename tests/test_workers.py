"""Two real processes as two hosts: MultiWorkerMirroredStrategy."""

import json
import pathlib
import re
import shutil
import socket
import subprocess
import threading
import time

import numpy as np
import pytest
import training
from conftest import ROOT
from conftest import hash_tree
from training import FAULTS
from training import TINY
from training import command
from training import curve
from training import environment
from training import finish
from training import prepare
from training import run_code
from training import train

from data_prep.runtime.errors import EXIT_DATA
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import UsageError
from trainer.distribution import rendezvous

SGD = (
    "--optimizer=sgd",
    "--frozen_learning_rate=1",
    "--finetune_learning_rate=0.3",
    "--augment=classic",
    "--dropout=0.3",
    "--clip_norm=1",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("workers"))


@pytest.fixture
def addresses():
    """Two free ports of this host."""
    return training.addresses()


def start(
    data,
    model,
    addresses,
    *arguments,
    faults=(None, None),
    only=(0, 1),
    folders=(ROOT, ROOT),
):
    """Starts the workers, each in a folder, and returns their processes."""
    programs = [
        (FAULTS, one) if one else ("-m", "trainer.task") for one in faults
    ]
    commands = [
        command(data, model, *arguments, program=program)
        for program in programs
    ]
    return training.start_workers(commands, only, addresses, folders)


def apart(data, root, addresses, *arguments):
    """Returns a folder for each of two workers, and what runs them there."""
    folders = [root / "one", root / "two"]
    for folder in folders:
        folder.mkdir()

    def run(*faults):
        words = (data, "model", addresses, *arguments)
        return finish(start(*words, faults=faults, folders=folders))

    return folders, run


@pytest.fixture(scope="module")
def one_process(data, tmp_path_factory):
    model = tmp_path_factory.mktemp("one") / "model"
    done = train(data, model, *SGD)
    assert done.returncode == 0, done.stderr
    return model


@pytest.mark.slow
def test_two_workers_stop_together_and_give_the_same_curve(
    data, tmp_path, addresses, one_process
):
    """SIGTERM to one worker only: both leave at the same step, both with 75.

    The same command then goes on, to the curve of one process.
    """
    model = tmp_path / "model"
    codes, outputs = finish(
        start(data, model, addresses, *SGD, faults=(None, "step:6:SIGTERM"))
    )
    assert codes == [75, 75], outputs
    for output, by in zip(outputs, ("another worker", "SIGTERM"), strict=True):
        assert f"stopped by {by} after epoch 1 and 3 steps" in output
    codes, outputs = finish(start(data, model, addresses, *SGD))
    assert codes == [0, 0], outputs
    assert "resuming after epoch 1 and 3 steps" in outputs[0]
    np.testing.assert_allclose(curve(model), curve(one_process), rtol=1e-5)
    ours, theirs = (
        json.loads((m / "evaluation.json").read_text())
        for m in (model, one_process)
    )
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert "accuracy" not in outputs[1]  # the first worker speaks for all


@pytest.mark.slow
def test_each_worker_has_a_disk_of_its_own(
    data, tmp_path, addresses, one_process
):
    """One name for the model directory, and only the first worker's is one.

    Stopped, resumed, and resumed once more with what the other worker cannot
    have; the curve is that of one process.
    """
    folders, run = apart(data, tmp_path, addresses, *SGD)
    # While the second phase is traced; the second time in validation, by two.
    codes, outputs = run(None, "trace:2:SIGUSR1")
    assert codes == [75, 75], outputs
    codes, outputs = run("step:2:SIGTERM+SIGINT", None)
    assert codes == [75, 75], outputs
    assert "resuming after epoch 1 and 1 steps" in outputs[0]
    codes, outputs = run(None, None)
    assert codes == [0, 0], outputs
    assert "resuming after epoch 1 and 3 steps" in outputs[0]
    model = folders[0] / "model"
    np.testing.assert_allclose(curve(model), curve(one_process), rtol=1e-5)
    assert (model / "DONE.json").exists()
    assert not list(folders[1].rglob("*.npz"))


@pytest.mark.slow
def test_each_worker_has_features_of_its_own(data, tmp_path, addresses):
    """Each extracts all of them where no folder is shared.

    One loses its own before the run is resumed, and makes them again.
    """
    flags = (*SGD, "--feature_cache", "--head_init=logistic_regression")
    one = tmp_path / "alone"
    done = train(data, one, *flags)
    assert done.returncode == 0, done.stderr
    folders, run = apart(data, tmp_path, addresses, *flags)
    codes, outputs = run(None, "step:2:SIGTERM")
    assert codes == [75, 75], outputs
    features = [folder / "model" / "features" for folder in folders]
    assert hash_tree(features[0]) == hash_tree(features[1])
    assert not list(features[0].glob("incomplete.*"))
    shutil.rmtree(features[1])
    codes, outputs = run(None, None)
    assert codes == [0, 0], outputs
    assert hash_tree(features[0]) == hash_tree(one / "features")
    np.testing.assert_allclose(
        curve(folders[0] / "model"), curve(one), rtol=1e-4, atol=1e-6
    )


SECONDS = 60.0  # after a loss the others have ended: what is promised


def is_lost(process):
    """Whether it has ended or is frozen."""
    if process.poll() is not None:
        return True
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return "State:\tT" in status


@pytest.mark.slow
def test_a_lost_worker_ends_the_others(data, tmp_path, addresses, one_process):
    """Failed, killed and frozen in turn: each time all are started again.

    In the end the curve is that of one process.
    """
    model = tmp_path / "model"
    words = (data, model, addresses, *SGD, "--checkpoint_steps=1")
    for fault, epochs in (
        ("step:3:full", None),
        ("step:5:SIGKILL", 0),
        ("step:3:SIGSTOP", 1),
    ):
        processes = survivor, lost = start(*words, faults=(None, fault))
        while not is_lost(lost):
            assert survivor.poll() is None
            time.sleep(0.05)
        end = time.monotonic() + SECONDS
        while survivor.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        in_time = survivor.poll() is not None
        for process in processes:
            process.kill()
        codes, (output, _) = finish(processes)
        assert in_time, f"{fault}: it still runs after {SECONDS} s: {output}"
        assert codes == [75, EXIT_DATA if "full" in fault else -9], output
        assert "another worker is gone" in output
        assert "Traceback" not in output
        if epochs is not None:
            assert f"resuming after epoch {epochs} and" in output
    codes, outputs = finish(start(*words))
    assert codes == [0, 0], outputs
    assert re.search("resuming after epoch [12] and", outputs[0])
    np.testing.assert_allclose(curve(model), curve(one_process), rtol=1e-5)


@pytest.mark.parametrize("index", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_worker_that_never_starts(data, tmp_path, addresses, index):
    model = tmp_path / "model"
    codes, (output,) = finish(
        start(data, model, addresses, "--startup_timeout=2", only=[index])
    )
    assert codes == [75]
    missing = f"worker {1 - index} ({addresses[1 - index]})"
    assert f"{missing} did not start" in output
    assert "Traceback" not in output
    assert not model.exists()


@pytest.mark.slow
def test_a_single_worker_is_no_cluster(data, tmp_path, addresses):
    """Vertex AI sets TF_CONFIG for one machine too."""
    codes, (output,) = finish(
        start(
            data,
            tmp_path / "model",
            addresses[:1],
            "--finetune_epochs=0",
            only=[0],
        )
    )
    assert codes == [0], output


class TestRendezvous:
    """The meeting alone, in threads."""

    def meet(self, addresses, purposes, timeout=5.0):
        errors = [None, None]

        def one(index):
            try:
                rendezvous.meet(
                    tuple(addresses), index, purposes[index], timeout
                )
            except (Stopped, UsageError) as error:
                errors[index] = error

        threads = [threading.Thread(target=one, args=[i]) for i in (1, 0)]
        for thread in threads:
            thread.start()
            time.sleep(0.3)  # worker 1 is early, and has to try again
        for thread in threads:
            thread.join()
        return errors

    def test_all_are_there(self, addresses):
        assert self.meet(addresses, ["train", "train"]) == [None, None]

    def test_another_command_is_refused_by_both(self, addresses):
        for error in self.meet(addresses, ["train a", "train b"]):
            assert isinstance(error, UsageError)
            assert "another command" in str(error)

    def test_strangers_are_ignored(self, addresses):
        host, port = addresses[0].split(":")

        def knock():
            for words in (b"GET / HTTP/1.0\n", b"[1]\n"):
                with self.connect(host, int(port)) as stranger:
                    stranger.sendall(words)
                    knocked.append(words)

        knocked = []
        thread = threading.Thread(target=knock)
        thread.start()
        with pytest.raises(Stopped, match="worker 1 .* did not start"):
            rendezvous.meet(tuple(addresses), 0, "train", 2.0)
        thread.join()
        assert len(knocked) == 2

    def connect(self, host, port):
        """Connects as soon as somebody listens."""
        end = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection((host, port))
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.01)

    def test_an_earlier_start_is_outwaited(self, addresses):
        """Its TensorFlow still answers, in bytes that are no text."""
        host, port = addresses[0].split(":")
        purpose = "train"
        errors = []

        def late():
            with socket.create_server((host, int(port))) as earlier:
                connection, _ = earlier.accept()
                with connection:
                    connection.sendall(b"\x00\x00\x12\x04\xfe\n")
            errors.append(self.meet_one(addresses, 0, purpose))

        thread = threading.Thread(target=late)
        thread.start()
        errors.append(self.meet_one(addresses, 1, purpose))
        thread.join()
        assert errors == [None, None]

    def meet_one(self, addresses, index, purpose):
        try:
            rendezvous.meet(tuple(addresses), index, purpose, 5.0)
        except (Stopped, UsageError) as error:
            return error
        return None

    def test_a_port_in_use(self, addresses):
        host, port = addresses[0].split(":")
        with socket.create_server((host, int(port))):
            with pytest.raises(UsageError, match="cannot listen on port"):
                rendezvous.meet(tuple(addresses), 0, "train", 2.0)


def test_the_reason_of_a_loss_is_one_line(tf):
    """What TensorFlow 2.21 says in a traced function, and outside of one."""
    from trainer.distribution import worker_group
    from trainer.distribution.cluster import Cluster

    said = (
        "Collective ops is aborted by: Error reported from /job:worker/task:1: "
        "The following tasks are unhealthy (stopped sending heartbeats):"
    )
    traced = (
        "Graph execution error:\n\nDetected at node Reduce defined at (most "
        f'recent call last):\n  File "a.py", line 9, in add\n\n{said}\n'
        "/job:worker/replica:0/task:1\nThe tasks have crashed.\n\t "
        "[[{{node CollectiveReduceV2}}]] [Op:__inference_add_293]"
    )
    cluster = Cluster(("a:1", "b:2"), 0)
    for text, reason in (
        (traced, f"{said} /job:worker/replica:0/task:1"),
        ("Socket closed", "Socket closed"),
    ):
        with pytest.raises(Stopped) as raised:
            with worker_group.stop_when_worker_lost(cluster):
                raise tf.errors.UnavailableError(None, None, text)
        assert f"another worker is gone ({reason}). What" in str(raised.value)


def test_bad_clusters_are_refused_at_once(data, tmp_path):
    for text, message in (
        ("{", "TF_CONFIG cannot be read"),
        (
            '{"cluster": {"worker": ["a:1", "b:2"]}, '
            '"task": {"type": "worker", "index": 2}}',
            "says that this is worker 2",
        ),
        (
            '{"cluster": {"worker": ["a:1", "a:1"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "names a worker twice",
        ),
    ):
        done = subprocess.run(
            command(data, tmp_path / "model"),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(TF_CONFIG=text),
        )
        assert done.returncode == 64
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert TINY


def test_sums_over_workers_are_exact():
    """Of 6 replicas each: six sixths are not 1."""
    code = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 6
)
from trainer.distribution.worker_group import WorkerGroup
group = WorkerGroup(
    tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(6)]), None
)
assert group.replicas == 6
group.count = 2  # whose sums are not left out; the other one has nothing
found = group.sum([1.0, 0.1, 3.0])
assert found.tolist() == [1.0, 0.1, 3.0], found
"""
    done = run_code(code, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
