"""`shardtune serve`, asked over HTTP by clients that others wrote."""

import base64
import contextlib
import http.client
import io
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import browser
import numpy as np
import pytest
import yaml
from conftest import ROOT
from conftest import write_noise
from PIL import Image
from test_data_prep_damage import many_scans
from training import environment
from training import train_fitted

from launch import submit
from launch.job import Job
from trainer import serve
from trainer.inference.exported import ExportedModel
from trainer.serve_config import ServeConfig

for library in ("starlette", "uvicorn", "multipart", "prometheus_client"):
    pytest.importorskip(library)
requests = pytest.importorskip("requests")


@pytest.fixture(scope="module")
def model(tmp_path_factory, tf):
    return train_fitted(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """An image of each class."""
    root = write_noise(tmp_path_factory.mktemp("new"), count=1, seed=9)
    return {name: root / name / "000.jpg" for name in ("cat", "dog")}


@contextlib.contextmanager
def started(*words):
    """Yields the process of a server, `python` and some words."""
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def serving(model, *flags):
    """Yields the address of a server that answers, and its process."""
    words = ("-m", "trainer.serve", f"--model_dir={model}", "--port=0")
    with started(*words, *flags) as process:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        url = re.search(r"http://127\.0\.0\.1:\d+", line).group()
        assert requests.get(f"{url}/readyz").status_code == 200
        yield url, process


@pytest.fixture(scope="module")
def url(model):
    with serving(model, "--max_mb=1", "--queue=40") as (url, _):
        yield url


def b64(path):
    return {"b64": base64.b64encode(path.read_bytes()).decode()}


def metric(url, name):
    """Returns a figure of the metrics page."""
    page = requests.get(f"{url}/metrics").text
    return float(re.search(rf"^{re.escape(name)} (\S+)$", page, re.M).group(1))


# ---- TensorFlow Serving's REST API ----


@pytest.mark.slow
def test_a_client_of_tensorflow_serving_is_answered(url, model, photos):
    instances = [b64(photos[name]) for name in ("cat", "dog", "cat")]
    body = {"signature_name": "serving_default", "instances": instances}
    batches = metric(url, "shardtune_batch_images_count")
    done = requests.post(
        f"{url}/v1/models/model:predict", data=json.dumps(body)
    )
    assert done.status_code == 200
    assert metric(url, "shardtune_batch_images_count") - batches <= 2  # joined
    found = done.json()["predictions"]
    assert [one["label"] for one in found] == ["cat", "dog", "cat"]
    names = ("cat", "dog", "cat")
    wanted = ExportedModel(model).classify(
        [photos[name].read_bytes() for name in names]
    )
    shares = [one["probabilities"] for one in found]
    np.testing.assert_allclose(shares, wanted, atol=1e-6)


@pytest.mark.parametrize(
    "place", ["/v1/models/model:predict", "/v1/models/model/versions/1:predict"]
)
def test_inputs_by_name_and_columns(url, photos, place):
    named = {"image_bytes": b64(photos["dog"])}
    done = requests.post(f"{url}{place}", json={"instances": [named]})
    (row,) = done.json()["predictions"]
    for inputs in ([b64(photos["dog"])], {"image_bytes": [b64(photos["dog"])]}):
        done = requests.post(f"{url}{place}", json={"inputs": inputs})
        columns = done.json()["outputs"]
        assert columns["label"] == [row["label"]] == ["dog"]
        np.testing.assert_allclose(
            columns["probabilities"], [row["probabilities"]], atol=1e-6
        )


def test_status_and_metadata(url):
    (state,) = requests.get(f"{url}/v1/models/model").json()[
        "model_version_status"
    ]
    assert (state["state"], state["version"]) == ("AVAILABLE", "1")
    found = requests.get(f"{url}/v1/models/model/metadata").json()
    assert found["model_spec"]["name"] == "model"
    signatures = found["metadata"]["signature_def"]["signature_def"]
    inputs = {name: [*one["inputs"]] for name, one in signatures.items()}
    assert inputs.pop("__saved_model_init_op") == []
    assert inputs == {
        "serving_default": ["image_bytes"],
        "images": ["images"],
        "examples": ["examples"],
    }
    # As TensorFlow Serving's documentation shows it.
    shares = signatures["serving_default"]["outputs"]["probabilities"]
    assert shares["dtype"] == "DT_FLOAT"
    assert shares["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}],
        "unknown_rank": False,
    }
    assert signatures["images"]["method_name"] == "tensorflow/serving/predict"
    assert requests.get(f"{url}/v1/models/other").status_code == 404


# ---- files ----


def test_curl_sends_files(url, photos):
    curl = shutil.which("curl")
    if not curl:
        pytest.skip("curl is not installed")

    def ask(*words):
        done = subprocess.run(
            [curl, "-sS", *words], check=True, capture_output=True, text=True
        )
        return json.loads(done.stdout)["predictions"]

    cat, dog = ask(
        *("-F", f"file=@{photos['cat']}", "-F", f"file=@{photos['dog']}"),
        f"{url}/classify?nearest=3",
    )
    assert (cat["file"], cat["label"], dog["label"]) == (
        "000.jpg",
        "cat",
        "dog",
    )
    assert 0.5 < cat["certainty"] <= 1
    assert cat["probabilities"]["cat"] > cat["probabilities"]["dog"]
    assert [near["label"] for near in dog["nearest"]] == ["dog"] * 3
    words = ("--data-binary", f"@{photos['dog']}")
    (one,) = ask("-H", "Content-Type: image/jpeg", *words, f"{url}/classify")
    assert (one["label"], one["nearest"]) == ("dog", [])


def bomb():
    """A PNG file of 12 kB that asks for 270 MB."""
    content = io.BytesIO()
    Image.new("1", (10000, 9000)).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    "content, status, says",
    [
        (b"no image", 400, "the image is no image of a known format"),
        (b"", 400, "the image is empty"),
        (b"\xff\xd8\xff\xe0 cut", 400, "the image cannot be decoded"),
        (bomb(), 400, "is 10000x9000 pixels, more than the 89 million"),
        (many_scans(8000, 8000, 500), 400, "has 500 scans of 8000x8000"),
        (bytes((1 << 20) + 1), 413, "the request is larger than 1 MiB."),
    ],
    ids=["text", "empty", "cut", "bomb", "scans", "large"],
)
def test_what_is_no_image_is_refused(url, content, status, says):
    done = requests.post(f"{url}/classify", data=content)
    assert done.status_code == status
    assert list(done.json()) == ["error"]
    assert says in done.json()["error"]


def test_a_body_of_unknown_length_has_a_limit_too(url):
    chunks = (bytes(1 << 16) for _ in range(1 << 10))
    try:
        done = requests.post(f"{url}/classify", data=chunks)
        assert done.status_code == 413
    except requests.ConnectionError:  # it did not read on
        pass
    assert requests.get(f"{url}/healthz").status_code == 200


@pytest.mark.parametrize(
    "body, says",
    [
        ("{", "the body is no JSON"),
        ("[" * 100_000, "the body is no JSON"),
        ("[]", "the body is no JSON object"),
        ("{}", "the request holds no image"),
        ('{"instances": []}', "the request holds no image"),
        ('{"instances": [3]}', 'instance 0 has no "b64"'),
        ('{"instances": [{"b64": "%"}]}', "instance 0 is no base64"),
        ('{"instances": [{"b64": "AAAA"}]}', "instance 0 is no image"),
        (
            '{"signature_name": "x", "instances": [{"b64": ""}]}',
            "signature 'x' is not answered here, only serving_default",
        ),
    ],
)
def test_what_is_no_request_is_refused(url, body, says):
    done = requests.post(f"{url}/v1/models/model:predict", data=body)
    assert done.status_code == 400
    assert done.json()["error"].startswith(says)


def test_more_images_than_may_wait_are_refused(url, photos):
    body = {"instances": [b64(photos["cat"])] * 41}
    done = requests.post(f"{url}/v1/models/model:predict", json=body)
    assert done.status_code == 413
    assert "expected 40 at most" in done.json()["error"]


def test_pages_of_others_are_not_let_in(url, photos):
    """No CORS, and no name of another that points to this machine."""
    done = requests.get(f"{url}/healthz", headers={"Origin": "http://evil"})
    assert not [n for n in done.headers if n.lower().startswith("access-")]
    done = requests.get(f"{url}/healthz", headers={"Host": "evil.example"})
    assert done.status_code == 400
    assert requests.get(f"{url}/templates/").status_code == 404


def test_bad_requests_take_no_place(url):
    """Whatever was refused above, nothing is left waiting."""
    assert metric(url, "shardtune_images_waiting") == 0
    assert requests.get(f"{url}/readyz").text == "ok\n"


# ---- the page ----


def test_an_image_is_dropped_on_the_page(url, photos, tmp_path):
    with browser.driven(f"{url}/", tmp_path) as evaluate:
        for _ in range(600):
            if evaluate("!!document.querySelector('#drop input')"):
                break
            time.sleep(0.1)

        def drop(name, content):
            code = base64.b64encode(content).decode()
            return evaluate(f"""(async () => {{
                const bytes = Uint8Array.from(
                    atob("{code}"), c => c.charCodeAt(0));
                const data = new DataTransfer();
                data.items.add(new File([bytes], "{name}"));
                document.getElementById("drop").dispatchEvent(
                    new DragEvent("drop", {{dataTransfer: data,
                                           cancelable: true}}));
                const answer = document.getElementById("answer");
                while (answer.textContent == "asking…")
                    await new Promise(done => setTimeout(done, 20));
                return answer.textContent;
            }})()""")

        said = drop("x.jpg", photos["dog"].read_bytes())
        assert re.fullmatch(r"dog, \d+\.\d% certain", said)
        near = "[...document.querySelectorAll('figcaption')]"
        labels = evaluate(f"{near}.map(n => n.textContent.split(' ')[0])")
        assert labels == ["dog"] * 5
        # The pictures are shown: the page's own policy lets them.
        loaded = evaluate(
            "Promise.all([...document.images].map(i => i.decode()))"
            ".then(all => all.length)"
        )
        assert loaded == 6
        rows = "document.querySelector('#shares').innerText"
        assert evaluate(rows).startswith("dog")
        assert drop("<b>.jpg", b"no") == "<b>.jpg is no image of a known format"
        assert evaluate("document.images.length") == 1  # nothing of before


# ---- a full queue, and the end ----


def half_sent(url, content):
    """Returns a connection that has sent half of an image, and the rest."""
    half = len(content) // 2
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.putrequest("POST", "/classify")
    connection.putheader("Content-Length", str(len(content)))
    connection.endheaders()
    connection.send(content[:half])
    return connection, content[half:]


def test_what_was_accepted_is_answered_at_the_end(model, photos):
    """Five are being read when SIGTERM comes; the sixth had no place."""
    contents = {name: path.read_bytes() for name, path in photos.items()}
    with serving(model, "--queue=5", "--nearest=false") as (url, process):

        def refused(status, says):
            done = requests.post(f"{url}/classify", data=contents["cat"])
            assert done.status_code == status
            assert done.headers["Retry-After"] == "1"
            assert says in done.json()["error"]

        names = ["cat", "dog", "dog", "cat", "dog"]
        asked = [half_sent(url, contents[name]) for name in names]
        while metric(url, "shardtune_images_waiting") < 5:
            pass
        refused(429, "5 images wait already")
        process.send_signal(signal.SIGTERM)
        while (ready := requests.get(f"{url}/readyz")).status_code == 200:
            pass
        assert ready.status_code == 503
        refused(503, "the server is stopping. Ask another one.")
        assert state(url) == "UNLOADING"
        assert requests.get(f"{url}/healthz").status_code == 200
        for connection, rest in asked:
            connection.send(rest)
        found = [connection.getresponse() for connection, _ in asked]
        assert [one.status for one in found] == [200] * 5
        labels = [json.load(one)["predictions"][0]["label"] for one in found]
        assert labels == names
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert errors == ""


def state(url):
    (one,) = requests.get(f"{url}/v1/models/model").json()[
        "model_version_status"
    ]
    return one["state"]


@pytest.fixture
def loading(model, tmp_path, photos):
    """A server that waits for calibration.json, and what writes that."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    held = folder / "calibration.json"
    content = held.read_text()
    held.unlink()
    os.mkfifo(held)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = (f"--model_dir={folder}", f"--port={port}", "--nearest=false")
    with started("-m", "trainer.serve", *flags) as process:
        url = f"http://127.0.0.1:{port}"
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/healthz").text == "ok\n":
                    break
            assert process.poll() is None, process.stderr.read()
        yield url, process, held, content


def test_it_says_so_until_the_model_is_loaded(loading, photos):
    url, process, held, content = loading
    image = photos["dog"].read_bytes()
    for refused in (
        requests.get(f"{url}/readyz"),
        requests.get(f"{url}/v1/models/model/metadata"),
        requests.post(f"{url}/classify", data=image),
        requests.post(f"{url}/v1/models/model:predict", data="{}"),
    ):
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert refused.json() == {
            "error": "the model is being loaded. Ask again later."
        }
    assert state(url) == "LOADING"
    # Now it can be read. A temperature that the export knows nothing of:
    known = json.loads(content)
    known |= {"temperature": 5 * known["temperature"], "applied": False}
    held.write_text(json.dumps(known))
    assert process.stdout.readline().endswith(f" at {url}/\n")
    assert requests.get(f"{url}/readyz").status_code == 200
    assert state(url) == "AVAILABLE"
    done = requests.post(f"{url}/classify", data=image)
    (one,) = done.json()["predictions"]
    assert one["label"] == "dog"
    assert 0.5 < one["certainty"] < one["probabilities"]["dog"] - 0.01


def test_it_serves_as_kubernetes_starts_and_asks_it(model, photos):
    """The rendered command, and its probes at the port of the manifest."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model_dir=/mnt/model", f"--port={port}", "--nearest=false"]
    job = Job(target="kubernetes", job="serve", volumes="claim:/mnt")
    text = submit.render(job, words).files["job.yaml"]
    _, deployment = yaml.safe_load_all(text.replace("/mnt/model", str(model)))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (named,) = container["ports"]
    url = f"http://127.0.0.1:{named['containerPort']}"

    def asked(probe):
        place = container[probe]["httpGet"]
        assert place["port"] == named["name"]
        return requests.get(url + place["path"]).status_code

    python, *command = container["command"]
    assert python == "python"
    with started(*command, *container["args"]) as process:
        process.stdout.readline()
        assert asked("readinessProbe") == asked("livenessProbe") == 200
        image = photos["dog"].read_bytes()
        assert requests.post(f"{url}/classify", data=image).status_code == 200
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
        assert (process.returncode, errors) == (0, "")


def test_a_model_that_cannot_be_loaded_ends_the_server(loading):
    _, process, held, _ = loading
    held.write_text("{")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 65, errors
    assert said == ""
    assert errors.startswith(f"error: {held} is damaged")
    assert errors.count("\n") == 1


def test_a_stop_does_not_wait_for_the_model(loading):
    _, process, _, _ = loading
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75
    assert errors.startswith("error: stopped by a signal")


def test_only_this_machine_reaches_it_unless_asked():
    with serve._listen(ServeConfig("model").serving.host, 0) as listening:
        host, _ = listening.getsockname()
    assert ipaddress.ip_address(host).is_loopback


def test_what_cannot_be_served_is_said(run, tmp_path, model):
    done = run("trainer.serve", f"--model_dir={tmp_path}", "--port=0")
    assert done.returncode == 65
    assert "holds no exported model" in done.stderr
    done = run("trainer.serve", f"--model_dir={model}", "--host=203.0.113.7")
    assert done.returncode == 64
    assert "--host=203.0.113.7 --port=8501 cannot be listened" in done.stderr
    done = run("trainer.serve", f"--model_dir={model}", "--name=a/b")
    assert done.returncode == 64


def test_the_end_of_an_answer_does_not_wait_for_the_client():
    with (
        serve._listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
    ):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
