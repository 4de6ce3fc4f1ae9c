"""`audit.html`: what it shows, and how a real browser shows it."""

import html
import json
import re
import shutil

import browser
import numpy as np
import pytest
from conftest import write_classes
from PIL import Image

from data_prep.catalogue import findings
from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import facts_row
from data_prep.config import PrepareConfig
from data_prep.images.fingerprint import Fingerprint
from data_prep.images.inspection import Facts
from data_prep.prepare import prepare
from data_prep.report import audit_page
from data_prep.report import samples
from data_prep.report import tables
from data_prep.report import thumbnails
from data_prep.runtime.errors import DataError
from data_prep.sources.listing import ImageFile

ODD = [
    "<script>alert(1)",
    "a & b \"c\" 'd'",
    "line\nbreak",
    "\u202eright to left",
    "صورة",
    "x" * 200,
]


def picture(seed, size=(200, 150)):
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Every kind of trouble, under odd names."""
    root = tmp_path_factory.mktemp("page") / "my photos"
    for label, name in enumerate(("cats & <dogs>", "été", "one")):
        (root / name).mkdir(parents=True)
        for number in range((40, 12, 1)[label]):
            picture((label, number)).save(root / name / f"{number}.jpg")
    for number, name in enumerate(ODD):
        shutil.copy(
            root / "été" / f"{number}.jpg", root / "été" / f"{name}.jpg"
        )
    picture((0, 3)).save(root / "cats & <dogs>" / "again.webp")
    picture((0, 4)).save(root / "été" / "4 too.jpg", quality=60)
    picture(7, (1600, 1000)).save(root / "cats & <dogs>" / "large.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(8).save(root / "été" / "turned.jpg", exif=exif)
    picture(9).convert("CMYK").save(root / "été" / "inks.jpg")
    (root / "été" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (root / "été" / "notes.txt").write_text("x")
    (root / "stray.jpg").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def data(source, tmp_path_factory):
    place = tmp_path_factory.mktemp("made") / "data"
    prepare(
        PrepareConfig(
            source=str(source),
            output_dir=str(place),
            on_bad_image="skip",
            workers=1,
        )
    )
    return place


def test_the_page_shows_what_the_list_names(data):
    page = (data / "audit.html").read_text()
    audit = json.loads((data / "audit.json").read_text())
    assert len(audit["counts"]) >= 9
    for kind, count in audit["counts"].items():
        assert f'<h2 id="{kind}">{kind} <span class="faint">{count}' in page
        assert f"<p>{findings.KINDS[kind]}." in page
        section = page.partition(f'<h2 id="{kind}">')[2].partition(
            "</section>"
        )[0]
        shown = min(count, samples.MOST)
        assert section.count("<li>") == shown
        files = {f["file"] for f in audit["findings"] if f["kind"] == kind}
        names = re.findall(r"<bdi>(.*?)</bdi>", section)
        assert files & set(map(html.unescape, names)) or kind == "duplicate"
    pairs = page.partition('<h2 id="near_duplicate">')[2].partition(
        "</section>"
    )[0]
    assert pairs.count("<img") == 2 * audit["counts"]["near_duplicate"]
    conflict = page.partition('<h2 id="label_conflict">')[2].partition("</sec")[
        0
    ]
    assert re.search("cats &amp; &lt;dogs&gt; · [a-z]+ · 200×150", conflict)
    assert "<script" not in page
    assert "line\\nbreak.jpg" in page
    assert "\u202e" not in page
    bad = page.partition('<h2 id="bad_image">')[2].partition("</section>")[0]
    assert "été/cut.jpg" in bad
    assert "<img" not in bad


def test_numbers_add_up(data):
    page = (data / "audit.html").read_text()
    audit = json.loads((data / "audit.json").read_text())
    facts = dict(
        (what, int(count.replace(",", "")))
        for count, what in re.findall(r"<li><b>([\d,]+)</b>([\w ]+)</li>", page)
    )
    assert facts["files"] == audit["files"] + 1  # that in no class
    left_out = facts["bad_image"] + facts["no_image"] + facts["ignored"]
    assert facts["images"] == audit["good"] == facts["files"] - left_out
    rows = re.findall(r"<tr><td><bdi>.*?</tr>", page, re.S)
    cells = [
        [int(n) for n in re.findall(r"<td(?: class=\"none\")?>(\d+)</td>", row)]
        for row in rows
    ]
    assert [row[0] for row in cells] == sorted(
        audit["classes"].values(), reverse=True
    )
    assert all(row[0] == sum(row[1:]) for row in cells)
    assert 'class="none">0</td>' in page  # the class of one image
    for bars in re.findall(
        r"<section class=\"card\">.*?</section>", page, re.S
    ):
        counts = re.findall(r"<td>(\d+)</td></tr>", bars)
        assert sum(map(int, counts)) == audit["good"]


def test_the_same_data_give_the_same_page(source, data, tmp_path):
    prepare(
        PrepareConfig(
            source=str(source),
            output_dir=str(tmp_path / "data"),
            on_bad_image="skip",
            workers=2,
        )
    )
    again = (tmp_path / "data" / "audit.html").read_bytes()
    assert again == (data / "audit.html").read_bytes()
    assert str(tmp_path).encode() not in again


def test_a_stopped_run_leaves_the_page_beside_its_place(source, tmp_path):
    place = tmp_path / "data"
    config = PrepareConfig(source=str(source), output_dir=str(place), workers=1)
    with pytest.raises(DataError, match="to look at: .*data.audit.html"):
        prepare(config)
    page = (tmp_path / "data.audit.html").read_text()
    assert "été/cut.jpg" in page
    assert "label_conflict" not in page  # nothing was compared yet
    assert not place.exists()
    (tmp_path / "photos").mkdir()
    good = write_classes(tmp_path / "photos", count=10)
    prepare(PrepareConfig(source=str(good), output_dir=str(place), workers=1))
    assert not (tmp_path / "data.audit.html").exists()


def test_thumbnails_are_small_upright_and_never_an_error(source, tmp_path):
    address = thumbnails.make(str(source / "été" / "turned.jpg"))
    head, _, text = address.partition(",")
    assert head == "data:image/jpeg;base64"
    assert len(text) < 12_000
    content = thumbnails.base64.b64decode(text)
    with Image.open(thumbnails.io.BytesIO(content)) as image:
        assert image.size == (120, 160)
    assert thumbnails.make(str(source / "été" / "cut.jpg")) == ""
    assert thumbnails.make(str(tmp_path / "gone.jpg")) == ""


def fill(catalogue, count, classes):
    """Enters made-up images, every one of them a near-duplicate."""
    catalogue.add_files(
        ImageFile(f"/no/{n}.jpg", f"{n}.jpg", f"class {n % classes:05d}")
        for n in range(count)
    )
    print_ = Fingerprint(0, bytes(256))
    facts = Facts(9000, 300, 200, "", b"x" * 32, True, (), print_)
    rows = list(catalogue.files())
    catalogue.insert("facts", (facts_row(row, facts, 0) for row in rows))
    catalogue.insert(
        "findings",
        (("near_duplicate", f"{n}.jpg", "0.jpg", "") for n in range(count)),
    )


def test_many_images_make_a_small_page(tmp_path):
    with Catalogue(str(tmp_path)) as catalogue:
        fill(catalogue, 20_000, 1000)
        audit_page.write(catalogue, str(tmp_path / "page.html"), "many")
    page = (tmp_path / "page.html").read_text()
    assert "24 of 20,000 are shown" in page
    assert f"{1000 - 2 * tables.MANY} between them" in page.replace("\n", " ")
    assert "all 1000 classes" in page
    assert len(page) < 100_000


# In a browser.


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    return browser.opener(tmp_path_factory)


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_complaint(
    browse, data, tmp_path, width, scheme
):
    browser.check(browse, data / "audit.html", tmp_path, width, scheme)


def test_the_browser_would_complain(browse, data, tmp_path):
    """Of anything from outside, and of scripts."""
    text = (data / "audit.html").read_text()
    for number, more in enumerate(
        ('<img src="http://127.0.0.1:9/x.png">', "<script>x()</script>")
    ):
        page = tmp_path / f"{number}.html"
        page.write_text(text.replace("</body>", f"{more}</body>"))
        console, _ = browse(page, "--dump-dom")
        assert any("Content Security Policy" in line for line in console)
