"""A real browser, and what it says of a page of ours."""

import contextlib
import html
import itertools
import json
import os
import re
import shutil
import subprocess

import pytest
from PIL import Image


def find():
    """Returns where Chromium is."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        pytest.skip("chromium is not installed")
    return program


@contextlib.contextmanager
def driven(url, profile):
    """Yields what runs JavaScript in a page and returns its value.

    By the DevTools protocol, through pipes: messages end in a byte of 0.

    Args:
        url: Of the page.
        profile: An empty folder.
    """
    read_by_it, to_it = os.pipe()
    from_it, written_by_it = os.pipe()
    process = subprocess.Popen(
        [
            *(
                "bash",
                "-c",
                f'exec "$@" 3<&{read_by_it} 4>&{written_by_it}',
                "-",
            ),
            *(find(), "--headless=new", "--no-sandbox", "--disable-gpu"),
            *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
            *(f"--user-data-dir={profile}", "about:blank"),
        ],
        pass_fds=(read_by_it, written_by_it),
        stderr=subprocess.DEVNULL,
    )
    os.close(read_by_it)
    os.close(written_by_it)
    numbers, rest = itertools.count(1), b""

    def ask(method, session=None, **params):
        nonlocal rest
        message = {"id": next(numbers), "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(to_it, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in rest:
                more = os.read(from_it, 1 << 16)
                assert more, "Chromium has ended"
                rest += more
            text, _, rest = rest.partition(b"\0")
            said = json.loads(text)
            if said.get("id") == message["id"]:
                assert "error" not in said, said
                return said["result"]

    try:
        target = ask("Target.createTarget", url=url)["targetId"]
        session = ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]

        def evaluate(code):
            found = ask(
                "Runtime.evaluate",
                session,
                expression=code,
                awaitPromise=True,
                returnByValue=True,
            )
            assert "exceptionDetails" not in found, found
            return found["result"].get("value")

        yield evaluate
    finally:
        process.kill()
        process.wait()
        os.close(to_it)
        os.close(from_it)


def opener(tmp_path_factory):
    """Returns a function that opens a page in Chromium.

    It takes the page and options, and returns what the page wrote to the
    console, and the program's output.
    """
    program = find()

    def run(page, *options):
        profile = tmp_path_factory.mktemp("profile")
        done = subprocess.run(
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--enable-logging=stderr",
                f"--user-data-dir={profile}",
                *options,
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stderr.splitlines()
        console = [line for line in lines if "CONSOLE" in line]
        return console, done.stdout

    return run


def check(browse, page, tmp_path, width, scheme):
    """Shows a page: no complaint, its colours, pictures, and no overflow.

    Args:
        browse: What `opener` returned.
        page: Its path.
        tmp_path: A folder for what is made.
        width: Of the window, in pixels.
        scheme: "light" or "dark".
    """
    options = [f"--window-size={width},900", "--hide-scrollbars"]
    options += ["--force-dark-mode"] * (scheme == "dark")
    shot = tmp_path / "shot.png"
    console, _ = browse(page, *options, f"--screenshot={shot}")
    assert console == []
    with Image.open(shot) as image:
        assert image.width == width
        assert len(image.convert("RGB").getcolors(1 << 24)) > 200  # pictures
        corner = sum(image.convert("RGB").getpixel((2, 2)))
    assert (corner < 150) == (scheme == "dark")
    # In a frame: a window is 500 pixels wide at least.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe style="width: {width}px; height: 900px" frameborder="0" '
        f'srcdoc="{html.escape(page.read_text())}"></iframe>'
        "<script>onload = () => { const inner = frames[0].document; "
        "document.title = [frames[0].innerWidth, "
        "inner.documentElement.scrollWidth, [...inner.images].filter("
        "i => i.complete && !i.naturalWidth).length] }</script>"
    )
    _, dom = browse(frame, *options, "--dump-dom")
    inner, scrolled, broken = re.search(
        r"<title>(\d+),(\d+),(\d+)</title>", dom
    ).groups()
    assert (int(inner), int(broken)) == (width, 0)
    assert int(scrolled) <= width
