"""Ends a run because of what was found, and leaves the findings to look at."""

import os
import pathlib
import tempfile
from collections.abc import Callable
from collections.abc import Mapping

from data_prep.catalogue import findings
from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import printable
from data_prep.report import audit_page
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError

MANY = 10  # named in a message before "and N more"

_COUNT_FILES = "SELECT COUNT(*) FROM files"
_EXAMPLES = "SELECT file, detail FROM findings WHERE kind = ? LIMIT ?"


def refuse(
    catalogue: Catalogue, remedies: Mapping[str, str], output_dir: str
) -> None:
    """Ends the run if there are findings of some kinds.

    Args:
        catalogue: Holds the findings.
        remedies: What to do about each of these kinds, beside mending the
            files.
        output_dir: The data set to be; `audit.json`, which names all findings,
            and its page are written beside it, or deleted where an earlier run
            left them.

    Raises:
        DataError: That names what was found of each such kind.
    """
    beside = output_dir.rstrip("/")
    if not storage.is_url(beside):
        beside = str(pathlib.Path(beside).absolute())
    listed, page = (
        f"{beside}.{name}"
        for name in (findings.FILE_NAME, audit_page.FILE_NAME)
    )
    counts = findings.count_kinds(catalogue)
    found = [
        f"{_describe(catalogue, kind, counts[kind])}\nMend or remove them, or "
        f"{remedy}."
        for kind, remedy in remedies.items()
        if kind in counts
    ]
    if not found:
        storage.delete(listed)
        storage.delete(page)
        return
    name = os.path.basename(beside)
    _write(listed, lambda path: findings.save(catalogue, path))
    _write(page, lambda path: audit_page.write(catalogue, path, name))
    raise DataError(
        "\n".join([*found, f"All findings: {listed}, and to look at: {page}"])
    )


def _write(target: str, write: Callable[[str], None]) -> None:
    """Writes a file, by a function that takes a local path."""
    if not storage.is_url(target):
        write(target)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, "file")
        write(local)
        storage.upload(local, target)


def _describe(catalogue: Catalogue, kind: str, count: int) -> str:
    """Returns how many findings there are of a kind, and names some."""
    rows = catalogue.execute(_EXAMPLES, (kind, MANY))
    names = [f"  {printable(file)} {detail}".rstrip() for file, detail in rows]
    if count > MANY:
        names.append(f"  and {count - MANY} more")
    head = f"{count} findings of {kind} ({findings.KINDS[kind]})"
    if kind == "bad_image":
        files = catalogue.value(_COUNT_FILES)
        head = f"{count} of {files} images are bad"
    return "\n".join([f"{head}:", *names])
