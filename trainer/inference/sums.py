"""Digests of what was exported: a file that has changed since is not run.

`SHA256SUMS` is what `sha256sum --check` reads, in the model directory.
"""

import pathlib

from data_prep.runtime import atomic
from data_prep.runtime.digest import file_sha256
from data_prep.runtime.errors import DataError

FILE_NAME = "SHA256SUMS"
_BETWEEN = "  "  # a digest and a name


def write(folder: pathlib.Path) -> None:
    """Writes the digests of all files in a folder.

    Args:
        folder: What is exported; it has no sums yet.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{file_sha256(path)}{_BETWEEN}{path.relative_to(folder).as_posix()}\n"
        for path in files
    ]
    atomic.write_text(folder / FILE_NAME, "".join(lines))


def check(folder: pathlib.Path, *names: str) -> None:
    """Refuses what is not as it was exported.

    Args:
        folder: A model directory; one without sums is of an earlier version,
            and passes.
        names: Files and folders in it that are about to be read.

    Raises:
        DataError: If one has changed or is missing.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        digest, _, name = line.partition(_BETWEEN)
        if pathlib.PurePosixPath(name).parts[0] not in names:
            continue
        file = folder / name
        if not file.is_file() or file_sha256(file) != digest:
            raise DataError(
                f"{file} is not what was exported: its SHA-256 is another than "
                f"in {FILE_NAME}. `shardtune export --model_dir={folder}` "
                f"exports it again; if you meant to change it, remove {path}."
            )
