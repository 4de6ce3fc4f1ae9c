"""`audit.html`: what `audit.json` says, to look at. One file, no scripts."""

import pathlib

from data_prep.catalogue.database import Catalogue
from data_prep.report import html
from data_prep.report import samples
from data_prep.report import tables

FILE_NAME = "audit.html"


def write(catalogue: Catalogue, path: str, name: str) -> None:
    """Writes the page.

    Of a million images it shows a sample: `samples.MOST` findings of a kind,
    and the largest and smallest classes. The same data gives the same page.

    Args:
        catalogue: Holds every image and finding.
        path: The file to write; local.
        name: Of the data set, for the title.
    """
    page = html.render(
        "audit.html",
        name=name,
        files=tables.count_files(catalogue),
        classes=tables.count_classes(catalogue),
        histograms=tables.count_sizes(catalogue),
        samples=list(samples.draw(catalogue)),
        most=samples.MOST,
    )
    pathlib.Path(path).write_text(page, encoding="utf-8")
