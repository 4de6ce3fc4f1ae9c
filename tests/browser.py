"""A real browser, and what it says of a page of ours."""

import html
import re
import shutil
import subprocess

import pytest
from PIL import Image


def opener(tmp_path_factory):
    """Returns a function that opens a page in Chromium.

    It takes the page and options, and returns what the page wrote to the
    console, and the program's output.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        pytest.skip("chromium is not installed")

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
