"""What the audit accepts, the decoders of training decode, and alike."""

import io
import json
import multiprocessing.synchronize
import os
import signal
import struct
import zlib

import numpy as np
import pytest
from conftest import write_classes
from PIL import Image

from benchmarks import fuzz_images
from benchmarks.fuzz_images import join_png
from benchmarks.fuzz_images import split_png
from data_prep.images import encoding
from data_prep.images import inspection
from data_prep.images import jpeg
from data_prep.images import memory
from data_prep.images import png
from data_prep.runners.processes import Processes
from data_prep.runtime.errors import DataError

SAMPLES = fuzz_images.samples()
HEADER, PIXELS, END = split_png(SAMPLES["png interlaced"])


@pytest.fixture(scope="module")
def decoders(tf):
    return fuzz_images.Decoders()


@pytest.mark.parametrize("name", SAMPLES)
def test_sound_files_are_stored_as_both_decoders_see_them(name, decoders):
    facts = inspection.inspect_content(SAMPLES[name], "")
    assert not facts.problem
    assert not decoders.difference(SAMPLES[name], facts)
    anew = "turned", "cmyk", "apng", "gif", "bmp", "webp"
    assert facts.kept == (not any(word in name for word in anew))


def test_nothing_accepted_differs(decoders):
    outcomes = [o for *_, o in fuzz_images.fuzz(1500, 4, decoders.difference)]
    assert set(outcomes) == {"accepted", "refused"}
    assert outcomes.count("accepted") > 200


def test_without_the_check_it_would_differ(decoders, monkeypatch):
    monkeypatch.setattr(png, "check", lambda _: png.Structure(8, True))
    # Cut by a byte, Pillow does not mind; bytes that OpenCV survives.
    content = SAMPLES["png"][:-1]
    facts = inspection.inspect_content(content, "")
    assert not facts.problem
    assert decoders.difference(content, facts)


def damaged_pixels(rows):
    return join_png([HEADER, (b"IDAT", zlib.compress(rows)), END])


ROWS = zlib.decompress(PIXELS[1])
NO_FILTER = bytearray(ROWS)
NO_FILTER[0] = 5
WRONG_CRC = bytearray(SAMPLES["png"])
WRONG_CRC[len(WRONG_CRC) // 2] ^= 1
PALETTE = dict(split_png(SAMPLES["png palette"]))
DAMAGE = {
    **{f"cut by {n}": (SAMPLES["png"][:-n], "cut off") for n in range(1, 21)},
    "no end": (join_png([HEADER, PIXELS]), "cut off"),
    "wrong checksum": (bytes(WRONG_CRC), "checksum of its chunk b'IDAT'"),
    "length too large": (
        SAMPLES["png"][:33] + b"\x7f" + SAMPLES["png"][34:],
        "length of a chunk",
    ),
    "pixels missing": (damaged_pixels(ROWS[:-1]), "pixels are missing"),
    "pixels cut": (
        join_png([HEADER, (b"IDAT", PIXELS[1][:-4]), END]),
        "pixels are cut off",
    ),
    "no such filter": (damaged_pixels(NO_FILTER), "pixels are damaged"),
    "not deflated": (
        join_png([HEADER, (b"IDAT", b"\0" * 99), END]),
        "pixels are damaged",
    ),
    "pixels go on": (
        join_png([HEADER, PIXELS, (b"IDAT", b"more"), END]),
        "pixels are damaged",
    ),
    "two headers": (join_png([HEADER, HEADER, PIXELS, END]), "chunks are"),
    "no pixels": (join_png([HEADER, END]), "chunks are"),
    "pixels apart": (
        join_png([HEADER, PIXELS, (b"tEXt", b"a\0b"), PIXELS, END]),
        "chunks are",
    ),
    "unknown and needed": (
        join_png([HEADER, (b"NEED", b""), PIXELS, END]),
        "chunks are",
    ),
    "two palettes": (
        join_png(
            [(k, PALETTE[k]) for k in (b"IHDR", b"PLTE", b"PLTE", b"IDAT")]
            + [END]
        ),
        "chunks are",
    ),
    "no palette": (
        join_png([(k, PALETTE[k]) for k in (b"IHDR", b"IDAT")] + [END]),
        "palette is",
    ),
    "palette cut": (
        join_png(
            [
                (b"IHDR", PALETTE[b"IHDR"]),
                (b"PLTE", PALETTE[b"PLTE"][:-1]),
                (b"IDAT", PALETTE[b"IDAT"]),
                END,
            ]
        ),
        "palette is",
    ),
    "transparency behind the pixels": (
        join_png([HEADER, PIXELS, (b"tRNS", bytes(6)), END]),
        "chunks are",
    ),
    "transparency of another kind": (
        join_png([HEADER, (b"tRNS", b"\0\1\0\1"), PIXELS, END]),
        "",  # Pillow 13 finds it first, and says so in its own words
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_png_is_named(name):
    content, message = DAMAGE[name]
    problem = inspection.inspect_content(content, "a.png").problem
    assert "cannot be decoded" in problem
    assert message in problem


def test_what_only_some_decoders_read_is_stored_anew(decoders):
    """Pillow's picture, whatever OpenCV makes of the file itself."""
    sound = SAMPLES["png"]
    background = join_png([HEADER, (b"bKGD", b""), PIXELS, END])
    more = join_png([HEADER, (b"IDAT", zlib.compress(ROWS + b"x")), END])
    anew = {"more bytes": sound + b"more", "bKGD": background, "data": more}
    anew["animated"] = SAMPLES["apng with a still"]
    for name, content in anew.items():
        facts = inspection.inspect_content(content, "")
        assert (facts.problem, facts.kept) == ("", False), name
        assert not decoders.difference(content, facts), name
        stored, *_ = encoding.encode(content, 0, "", "original")
        wanted = Image.open(io.BytesIO(content)).convert("RGB")
        assert Image.open(io.BytesIO(stored)).tobytes() == wanted.tobytes()


def test_exif_behind_the_pixels_counts_in_audit_and_writer_alike():
    chunks = split_png(SAMPLES["png turned"])
    kinds = [kind for kind, _ in chunks]
    exif = chunks[kinds.index(b"eXIf")]
    chunks.insert(-1, (b"eXIf", exif[1].replace(b"\x06", b"\x01")))
    content = join_png(chunks)
    facts = inspection.inspect_content(content, "")
    assert (facts.problem, facts.kept, facts.findings) == ("", True, ())
    chunks[-2] = b"eXIf", b"damaged"
    assert "decoded" in inspection.inspect_content(join_png(chunks), "").problem


def test_a_jpeg_with_a_warning_is_stored_anew(decoders):
    content = SAMPLES["jpeg"]
    content = content[:-40] + b"\xff\xd9"
    facts = inspection.inspect_content(content, "")
    assert dict(facts.findings).keys() == {"decoder_warning"}
    assert (facts.problem, facts.kept) == ("", False)
    assert not decoders.difference(content, facts)


def test_unusual_frames_are_not_kept(monkeypatch):
    content = SAMPLES["jpeg"]
    assert jpeg.read(content).usual
    frame = content.index(b"\xff\xc0")
    arithmetic = content[: frame + 1] + b"\xc9" + content[frame + 2 :]
    assert not jpeg.read(arithmetic).usual
    assert not inspection.inspect_content(arithmetic, "").kept
    monkeypatch.setattr(jpeg, "_USUAL_FRAMES", (0xC1, 0xC2))
    facts = inspection.inspect_content(content, "")
    assert (facts.problem, facts.kept) == ("", False)


@pytest.mark.parametrize("name", ["png 16 bit", "png 16 bit rgb"])
def test_sixteen_bits_are_found(name):
    facts = inspection.inspect_content(SAMPLES[name], "")
    assert ("sixteen_bit", "") in facts.findings
    assert facts.kept
    eight = inspection.inspect_content(SAMPLES["png"], "")
    assert ("sixteen_bit", "") not in eight.findings


def many_scans(width, height, scans):
    """A grey JPEG that goes through all of its pixels so many times."""

    def segment(marker, content):
        length = struct.pack(">H", len(content) + 2)
        return bytes([0xFF, marker]) + length + content

    blocks = -(-width // 8) * -(-height // 8)
    # Runs of 32767 blocks without a coefficient: a bit, and 14 more.
    bits = "0" + "1" * 14
    bits *= -(-blocks // 32767)
    bits += "1" * (-len(bits) % 8)
    run = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    code = bytes([1] + [0] * 15)  # one code, of one bit
    empty_scan = segment(0xDA, b"\1\1\0\1\x3f\0") + run
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, b"\0" + bytes([1] * 64)),
            segment(
                0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"
            ),
            segment(0xC4, b"\x00" + code + b"\0"),
            segment(0xC4, b"\x10" + code + b"\xe0"),
            segment(0xDA, b"\1\1\0\0\0\0") + bytes(-(-blocks // 8)),
            empty_scan * (scans - 1),
            b"\xff\xd9",
        ]
    )


def test_scans_are_counted_where_decoders_go_through_them():
    assert jpeg.read(SAMPLES["jpeg"]).scans == 1
    assert jpeg.read(SAMPLES["jpeg"] + b"\xff\xda").scans == 1
    assert jpeg.read(SAMPLES["jpeg progressive"]).scans == 10
    # One colour after another, without being progressive.
    content = SAMPLES["jpeg"]
    at = content.index(b"\xff\xda")
    apart = content[: at + 4] + b"\1" + content[at + 5 :]
    assert jpeg.read(apart + b"\xff\xda" * 8).scans == 9


@pytest.mark.parametrize("turned", [False, True])
def test_too_many_scans_are_refused(turned, monkeypatch):
    content = many_scans(800, 600, 12)
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 3
        app1 = exif.tobytes()
        app1 = b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1
        content = content[:2] + app1 + content[2:]
    assert not inspection.inspect_content(content, "").problem
    monkeypatch.setattr(jpeg, "MAX_SCANNED", 12 * 800 * 600 - 1)
    problem = inspection.inspect_content(content, "").problem
    assert problem.startswith("has 12 scans of 800x600 pixels, more than")


def test_bombs_are_named_and_left_out(tmp_path, run):
    """30 GB that are not on the disk, and a JPEG of half a minute."""
    source = write_classes(tmp_path / "photos", count=6)
    with (source / "cat" / "sparse.png").open("wb") as file:
        file.write(SAMPLES["png"])
        file.truncate(30 << 30)
    scans = many_scans(9000, 9000, 400)
    assert len(scans) < 300_000
    (source / "cat" / "scans.jpg").write_bytes(scans)
    output = tmp_path / "data"
    command = (
        "data_prep.task",
        f"--source={source}",
        f"--output_dir={output}",
        "--workers=2",
    )
    done = run(*command)
    assert done.returncode == 65
    assert "sparse.png is larger than 512 MiB" in done.stderr
    assert "scans.jpg has 400 scans of 9000x9000 pixels" in done.stderr
    done = run(*command, "--on_bad_image=skip")
    assert done.returncode == 0, done.stderr
    audit = json.loads((output / "audit.json").read_text())
    assert [f["kind"] for f in audit["findings"]].count("bad_image") == 2


def test_a_worker_that_is_killed_is_one_message():
    """What the system does when memory runs out."""
    with (
        pytest.raises(DataError, match="one of 2 processes was killed"),
        Processes(2) as processes,
    ):
        list(processes.map(signal.raise_signal, [signal.SIGKILL]))


def test_a_stop_waits_for_processes_that_still_begin():
    """Else they find no locks: each ends in a traceback."""
    ended = []
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Processes(2) as processes:
            assert list(processes.map(abs, [-1, -2])) == [1, 2]
            shut_down = processes._pool.shutdown

            def stopped_meanwhile(**options):
                signal.raise_signal(signal.SIGTERM)
                shut_down(**options)
                ended.append(True)

            processes._pool.shutdown = stopped_meanwhile
    finally:
        signal.signal(signal.SIGTERM, former)
    assert ended


def waits_when_large(_):
    turns = memory.turn(memory.LARGE), memory.turn(memory.LARGE + 1)
    return [
        isinstance(turn, multiprocessing.synchronize.RLock) for turn in turns
    ]


def hold(number):
    """Holds the turn, and says of others whether they hold it meanwhile."""
    with memory.turn(memory.LARGE + 1):
        path = f"{os.environ['SHARDTUNE_TEST_TURN']}"
        file = os.open(path, os.O_CREAT | os.O_EXCL)
        os.close(file)
        total = sum(range(200_000))
        os.unlink(path)
    return total - total + number


def test_large_images_are_held_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARDTUNE_TEST_TURN", str(tmp_path / "turn"))
    with Processes(3) as processes:
        assert list(processes.map(waits_when_large, [0])) == [[False, True]]
        assert list(processes.map(hold, range(60))) == list(range(60))


@pytest.mark.parametrize(
    "name", ["png", "png 16 bit rgb", "bmp", "jpeg turned"]
)
def test_full_decodes_take_their_turn(name, monkeypatch):
    sizes = []

    def turn(size):
        sizes.append(size)
        return memory.contextlib.nullcontext()

    monkeypatch.setattr(memory, "turn", turn)
    inspection.inspect_content(SAMPLES[name], "")
    encoding.encode(SAMPLES[name], 0, "", "original")
    assert sizes == [64 * 64 * memory.PIXEL] * 2


def test_sixteen_bit_grey_is_scaled():
    wide = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    out = io.BytesIO()
    Image.fromarray(wide).save(out, "PNG")
    found = encoding.to_rgb(Image.open(io.BytesIO(out.getvalue())))
    np.testing.assert_array_equal(np.asarray(found)[..., 0], wide >> 8)
