"""Every parser of the project, given anything: it answers, or says what is wrong.

What is drawn is the same in every run, and little of it. To look further:

SHARDTUNE_TEST_FUZZ=5000 pytest -n 0 tests/test_parsers.py
"""

import asyncio
import hashlib
import io
import json
import os
import pathlib
import uuid

import numpy as np
import pytest
from absl import flags
from conftest import hash_tree
from conftest import write_image
from hypothesis import HealthCheck
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from benchmarks import fuzz_images
from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import records
from data_prep.dataset import verification
from data_prep.images import inspection
from data_prep.images import plain
from data_prep.prepare import prepare
from data_prep.runtime import setting_flags
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from data_prep.sources import corrections
from data_prep.sources import file_names
from data_prep.sources import table
from launch.job import Job
from trainer.config import Config

# More examples are other ones, too.
_LONG = int(os.environ.get("SHARDTUNE_TEST_FUZZ", "0"))
# An example after which the code is wrong in a way of its own stands beside its
# test, by `@example`.
fuzzed = settings(
    max_examples=_LONG or 60,
    derandomize=not _LONG,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "..", "../../x", "/x", "\0", "\ud800", "b64"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
DEEP = b"[" * 100_000


@st.composite
def damaged(draw, content):
    """Bytes of a good file, with a few places cut, replaced or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        gone = draw(st.sampled_from([0, 1, 2, 8, len(content)]))
        new = draw(
            st.binary(max_size=8)
            | st.sampled_from([b"", b"\xff" * 8, b"\0" * 8, content[:64]])
        )
        content = content[:at] + new + content[at + gone :]
    return content


@st.composite
def changed(draw, value):
    """A JSON value with something in it left out, added or replaced."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        if not draw(st.integers(0, 9)):
            return {k: v for k, v in value.items() if k != key}
        if not draw(st.integers(0, 9)):
            return {**value, "more": draw(JSON)}
        return {**value, key: draw(changed(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(changed(value[at])), *value[at + 1 :]]
    return draw(JSON)


@pytest.fixture(scope="module", params=["original", "raw"])
def data(tmp_path_factory, request):
    """A small data set."""
    root = tmp_path_factory.mktemp("parsers")
    for label, name in enumerate(("cat", "dog")):
        for number in range(3):
            path = root / "photos" / name / f"{number}.png"
            write_image(path, 40 * label + number, size=(20, 12))
    prepare(
        PrepareConfig(
            source=str(root / "photos"),
            output_dir=str(root / "data"),
            splits="train:1.0",
            similarity=0.0,
            encoding=request.param,
            image_size=16 if request.param == "raw" else 0,
        )
    )
    return root / "data"


# ---- data sets ----


def written(folder, content):
    """Writes a manifest whose checksum is right, as `Manifest.save` says it."""
    if isinstance(content, dict):
        content.pop("checksum", None)
        text = json.dumps(content, sort_keys=True)
        content["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(content))


def read_data_set(folder):
    """Reads all that a trainer reads of a data set."""
    from trainer.pipeline.reader import Reader

    manifest = manifest_lib.load(str(folder))
    for split in manifest.splits:
        manifest_lib.load_fingerprints(manifest, str(folder), split)
        reader = Reader(str(folder), manifest, split)
        every = np.arange(reader.count)
        reader.contents(every)
        reader.pixels(every, 8)
        reader.files()


@pytest.fixture
def scratch_data(data):
    """The data set, which is as it was after the test."""
    before = hash_tree(data)
    yield data
    for name, content in before.items():
        (data / name).write_bytes(content)


@fuzzed
@given(content=st.data())
def test_damaged_manifest(scratch_data, content):
    path = scratch_data / "manifest.json"
    good = path.read_bytes()
    path.write_bytes(content.draw(damaged(good) | st.binary(max_size=50)))
    try:
        read_data_set(scratch_data)
    except DataError as error:
        assert len(str(error)) > 20
    finally:
        path.write_bytes(good)


@fuzzed
@given(content=st.data())
def test_manifest_of_wrong_things_with_a_right_checksum(scratch_data, content):
    path = scratch_data / "manifest.json"
    good = path.read_bytes()
    written(scratch_data, content.draw(changed(json.loads(good))))
    try:
        read_data_set(scratch_data)
    except DataError as error:
        assert len(str(error)) > 20
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize(
    "content", [b"[]", b"1", b'"x"', DEEP, b"\xff", b"", b"{}", b"9" * 5000]
)
def test_what_is_no_manifest_at_all(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match="Make the data set with"):
        manifest_lib.load(str(tmp_path))


@fuzzed
@given(draw=st.data())
def test_index_that_leads_anywhere(scratch_data, draw):
    """Its SHA-256 is the manifest's; what stands in it is not the shards'."""
    manifest = manifest_lib.read(str(scratch_data))
    split = manifest.splits["train"]
    path = scratch_data / split.index.name
    index = np.frombuffer(path.read_bytes(), records.INDEX_DTYPE).copy()
    row = draw.draw(st.integers(0, len(index) - 1))
    for field in draw.draw(
        st.lists(st.sampled_from(records.INDEX_DTYPE.names), min_size=1)
    ):
        limits = np.iinfo(records.INDEX_DTYPE[field])
        index[field][row] = draw.draw(
            st.integers(-2, 200)
            | st.sampled_from([limits.min, limits.max, 1 << 30])
        )
    good = path.read_bytes()
    kept = (scratch_data / "manifest.json").read_bytes()
    content = json.loads(kept)
    path.write_bytes(index.tobytes())
    described = manifest_lib.describe(str(scratch_data), path.name, len(index))
    content["splits"]["train"]["index"]["sha256"] = described.sha256
    written(scratch_data, content)
    try:
        read_data_set(scratch_data)
    except DataError as error:
        assert str(scratch_data) in str(error)
    finally:
        path.write_bytes(good)
        (scratch_data / "manifest.json").write_bytes(kept)


@fuzzed
@given(payload=st.data())
def test_records_of_others(payload):
    """A record whose checksums are right, and whose content is anything."""
    record = records.Record(b"image", 1, 2, "a/b.png", 4, 5)
    good = records.serialize(record)
    payload = payload.draw(damaged(good) | st.binary(max_size=50))
    framed = records.frame(payload)
    assert records.check_frame(framed, len(payload)) == payload
    try:
        found = records.deserialize(payload)
    except ValueError as error:
        assert str(error)
    else:
        assert isinstance(found, records.Record)


@fuzzed
@given(shard=st.data())
def test_damaged_shard_is_named(scratch_data, shard):
    path = next(scratch_data.glob("*.tfrecord-*"))
    good = path.read_bytes()
    content = shard.draw(damaged(good))
    path.write_bytes(content)
    try:
        if content != good:
            with pytest.raises(DataError, match=path.name):
                verification.verify(str(scratch_data))
    finally:
        path.write_bytes(good)


# ---- sources ----


CELLS = st.text(max_size=6) | st.sampled_from(
    ["cat", "a.png", "../outside.png", "/etc/passwd", "train", "\0", '"', "\r"]
)


@st.composite
def tables(draw):
    """A table, or what only looks like one."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=60))
    delimiter = draw(st.sampled_from(",;\t"))
    names = draw(st.sampled_from([["file", "label"], ["label", "file"]]))
    rows = [names, *draw(st.lists(st.lists(CELLS, max_size=4), max_size=4))]
    text = "\n".join(delimiter.join(row) for row in rows)
    return text.encode("utf-8", "surrogatepass")


@fuzzed
@given(content=tables())
@example(content=b"file,label\n\xff,cat\n")
@example(content=b"file,label\n" + b"a" * 200_000 + b",cat\n")
def test_tables_of_labels(tmp_path_factory, content):
    root = tmp_path_factory.getbasetemp() / "tables"
    root.mkdir(exist_ok=True)
    write_image(root / "a.png", 1)
    file = root / "table.csv"
    file.write_bytes(content)
    columns = table.Columns("{file}", "label", "")
    try:
        for image in table.list_table(str(file), str(file), columns).images:
            inside = (
                pathlib.Path(root.resolve()) in pathlib.Path(image.path).parents
            )
            assert inside or image.problem
    except (DataError, UsageError) as error:
        assert "table.csv" in str(error)


@fuzzed
@given(content=tables())
@example(content=b"label,file\ncat\n")  # a row that ends before its file
def test_corrections(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "corrections.csv"
    file.write_bytes(content)
    try:
        found = corrections.read(str(file))
        list(corrections.apply(iter(()), found, str(file)))
    except DataError as error:
        assert "--corrections=" in str(error)


PATTERN = st.text(
    st.sampled_from("(?P<label>[a-z]+)\\.d*{}|^$9,:=!"), max_size=25
)


@fuzzed
@given(text=PATTERN | st.text(max_size=20), name=st.text(max_size=10))
@example(text="(?P<label>a{99999999999})", name="")
@example(text="(" * 5000 + "(?P<label>a)" + ")" * 5000, name="")
def test_label_patterns(text, name):
    try:
        pattern = file_names.compile_pattern(text)
    except UsageError as error:
        assert "--label_pattern=" in str(error)
    else:
        pattern.match(name)


# ---- images ----


SAMPLES = fuzz_images.samples()


@fuzzed
@given(draw=st.data())
def test_images(draw):
    name = draw.draw(st.sampled_from(sorted(SAMPLES)))
    content = draw.draw(damaged(SAMPLES[name]))
    facts = inspection.inspect_content(content, f"x.{name[:3]}")
    assert facts.problem or (facts.width > 0 and facts.height > 0)
    try:
        assert plain.convert(content, "x")
    except plain.BadImage as error:
        assert error.problem


@fuzzed
@given(
    start=st.sampled_from(
        [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF", b""]
    ),
    rest=st.binary(max_size=60),
)
@example(
    start=b"\x89PNG\r\n\x1a\n", rest=b"\xff\xff\xff\xffIHDR" + b"\xff" * 13
)
@example(start=b"\xff\xd8\xff", rest=b"\xe0\x00\x00" * 20)
def test_headers_of_images(start, rest):
    facts = inspection.inspect_content(start + rest, "x")
    assert facts.problem


# ---- checkpoints ----


def checkpoint_bytes():
    out = io.BytesIO()
    state = np.frombuffer(json.dumps({"step": 3}).encode(), np.uint8)
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.savez(out, **{"dense/kernel": weights, "state.json": state})
    return out.getvalue()


CHECKPOINT = checkpoint_bytes()


@fuzzed
@given(content=damaged(CHECKPOINT) | st.binary(max_size=40))
@example(content=b"\x93NUMPY\x01\x00\xff\xff")
@example(content=CHECKPOINT.replace(b"(3, 4)", b"(9**9)"))
def test_checkpoints(tmp_path_factory, tf, content):
    from trainer.engine import checkpoint

    path = tmp_path_factory.getbasetemp() / "step-000000003.npz"
    path.write_bytes(content)
    for read in (checkpoint.load, checkpoint.load_state):
        try:
            read(path)
        except DataError as error:
            assert str(path) in str(error)


# ---- settings ----


WORDS = st.text(max_size=8) | st.sampled_from(
    ["1", "-1", "1e400", "nan", "inf", "true", "0x10", "1_0", "", "s3://x", "/"]
)


@pytest.mark.parametrize("config", [PrepareConfig, Config, Job])
@fuzzed
@given(draw=st.data())
def test_flags(config, draw):
    one = draw.draw(st.sampled_from(config.settings()))
    words = [f"--{one.name}={word}" for word in draw.draw(st.lists(WORDS))]
    words += [f"--{r.name}=somewhere" for r in config.settings() if r.required]
    values = flags.FlagValues()
    setting_flags.define_flags(config, values)
    try:
        values(["program", *words])
        made = setting_flags.from_flags(config, values)
    except (UsageError, flags.Error) as error:
        assert str(error)
    else:
        # What is written is what is read.
        again = flags.FlagValues()
        setting_flags.define_flags(config, again)
        changed = setting_flags.given(config, values)
        assert made == config(**changed)


@pytest.mark.parametrize("config", [PrepareConfig, Config, Job])
@fuzzed
@given(draw=st.data())
def test_settings_in_python(config, draw):
    one = draw.draw(st.sampled_from(config.settings()))
    value = draw.draw(
        JSON
        | st.binary(max_size=3)
        | st.tuples(st.integers())
        | st.builds(object)
        | st.just(np.float32("nan"))
        | st.just(10**400)
    )
    required = {r.name: "x" for r in config.settings() if r.required}
    try:
        config(**{**required, one.name: value})
    except UsageError as error:
        assert len(str(error)) > 10


# ---- requests ----


class _Model:
    """Answers as an exported model does; what is tested is what it gets."""

    classes = ("cat", "dog")

    def classify(self, contents):
        return np.tile(np.float32([0.25, 0.75]), (len(contents), 1))

    def calibrate(self, rows):
        return rows


@pytest.fixture(scope="module")
def server():
    """Answers one request: status and body."""
    for library in ("starlette", "multipart", "prometheus_client"):
        pytest.importorskip(library)
    return lambda *request: asyncio.run(_ask(*request))


async def _ask(method, path, query, headers, body):
    """Speaks ASGI, so that the request may be one that no client would send."""
    from trainer.serving.app import Server
    from trainer.serving.door import Limits

    ready = asyncio.Event()
    limits = Limits(batch=4, seconds=0.0, images=8, bytes=1 << 20)
    application = Server(
        "model", lambda: (_Model(), None), limits, ready.set
    ).app()
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": headers,
        "scheme": "http",
        "server": ("x", 80),
        "client": ("x", 1),
        "root_path": "",
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    router = application.router
    async with router.lifespan_context(application):
        async with asyncio.timeout(20):
            await ready.wait()
            await application(scope, receive, send)
    content = b"".join(m.get("body", b"") for m in sent[1:])
    return sent[0]["status"], content


def base64_of(content):
    import base64

    return base64.b64encode(content).decode()


REQUEST = {"instances": [{"b64": base64_of(SAMPLES["png"])}]}
FORM = b'--X\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n'
FORM += b"\r\n" + SAMPLES["png"] + b"\r\n--X--\r\n"


def answered(status, content):
    assert status in (200, 400, 404, 413), (status, content)
    assert json.loads(content)


def test_good_requests_are_answered(server):
    predict = "/v1/models/model:predict"
    status, content = server(
        "POST", predict, b"", [], json.dumps(REQUEST).encode()
    )
    assert status == 200 and b'"dog"' in content
    form = [(b"content-type", b"multipart/form-data; boundary=X")]
    status, content = server("POST", "/classify", b"", form, FORM)
    assert status == 200 and b"a.png" in content


@fuzzed
@given(draw=st.data())
def test_requests_of_json(server, draw):
    value = draw.draw(changed(REQUEST))
    body = draw.draw(
        st.just(json.dumps(value).encode())
        | damaged(json.dumps(REQUEST).encode())
    )
    answered(*server("POST", "/v1/models/model:predict", b"", [], body))


@pytest.mark.parametrize("body", [DEEP, b"9" * 5000, b"[]", b"", b"\xff"])
def test_requests_that_are_no_request(server, body):
    status, content = server("POST", "/v1/models/model:predict", b"", [], body)
    assert status == 400 and json.loads(content)["error"]


@fuzzed
@given(
    body=damaged(FORM) | damaged(SAMPLES["jpeg"]) | st.binary(max_size=40),
    kind=st.sampled_from(
        [
            b"multipart/form-data; boundary=X",
            b"multipart/form-data",
            b"multipart/form-data; boundary=",
            b"multipart/\xff; boundary=X",
            b"image/png",
            b"",
        ]
    ),
    query=st.sampled_from([b"", b"nearest=3", b"nearest=-1", b"nearest=%FF"])
    | st.binary(max_size=20),
)
@example(body=FORM, kind=b"image/png", query=b"nearest=" + b"9" * 5000)
def test_uploads(server, body, kind, query):
    headers = [(b"content-type", kind)]
    answered(*server("POST", "/classify", query, headers, body))


# ---- copies in a store ----


DIGEST = hashlib.sha256(b"1").hexdigest()
COMMIT = {
    "files": {"model.keras": {"object": f"objects/{DIGEST}", "sha256": DIGEST}}
}


@pytest.fixture
def fetched(tmp_path_factory):
    """Fetches the model of a store whose commit is some bytes."""
    pytest.importorskip("fsspec")
    from data_prep.runtime import storage
    from launch.staging.mirror import Mirror

    def fetch(content):
        root = tmp_path_factory.mktemp("commits")
        url = f"memory://{uuid.uuid4().hex}"
        storage.write(f"{url}/objects/{DIGEST}", b"1")
        storage.write(f"{url}/COMMIT.json", content)
        try:
            Mirror(url, root / "model").fetch()
        except DataError as error:
            assert url in str(error)
            return None
        finally:
            # Nothing is written beside the model directory.
            assert {path.name for path in root.iterdir()} <= {"model"}
        return hash_tree(root / "model")

    return fetch


def test_a_good_commit(fetched):
    content = json.dumps(COMMIT).encode()
    assert fetched(content) == {"model.keras": b"1"}


@pytest.mark.parametrize(
    "name", ["../out", "/out", "a/../../out", "", ".", "\0", "\ud800"]
)
def test_commits_that_lead_out(fetched, name):
    files = {name: COMMIT["files"]["model.keras"]}
    assert fetched(json.dumps({"files": files}).encode()) is None


def test_a_commit_of_a_file_in_a_file(fetched):
    entry = COMMIT["files"]["model.keras"]
    files = {"best/a": entry, "best": entry}
    assert fetched(json.dumps({"files": files}).encode()) is None


@fuzzed
@given(draw=st.data())
def test_commits(fetched, draw):
    value = changed(COMMIT).map(lambda value: json.dumps(value).encode())
    fetched(draw.draw(value | damaged(json.dumps(COMMIT).encode())))
