"""Command line: checks a finished data set against its manifest.

python -m data_prep.verify --data_dir=data
"""

import dataclasses
import itertools
import pathlib
import tempfile
from collections.abc import Iterator

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset.manifest import Manifest
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.settings import setting

MANY = 10  # problems named in a message before "and more"


@dataclasses.dataclass(frozen=True)
class Verification(settings.Group):
    """Verification."""

    data_dir: str = setting(
        "",
        "The data set to check, also gs:// or s3://.",
        path=settings.Path(settings.READ, stores=True),
        required=True,
    )


class VerifyConfig(settings.Config):
    """The flags of `data_prep.verify`."""

    verification: Verification


def verify(data_dir: str) -> int:
    """Reads every file of a data set and compares its SHA-256.

    Args:
        data_dir: Of the data set. One in object storage is copied to the
            system's folder for temporary files first.

    Returns:
        The number of files, all of them whole.

    Raises:
        DataError: If files are missing, too many, or not what the manifest
            says; it names shard and byte.
    """
    if storage.is_url(data_dir):
        url = data_dir.rstrip("/")
        with tempfile.TemporaryDirectory() as copy:
            for _, name, _ in storage.files(url):
                if "/" not in name:
                    storage.fetch(url, copy, [name])
            try:
                return verify(copy)
            except DataError as error:
                raise DataError(str(error).replace(copy, url)) from None
    manifest = manifest_lib.read(data_dir)
    found = list(itertools.islice(_problems(manifest, data_dir), MANY + 1))
    if found:
        listed = "\n".join(f"  {problem}" for problem in found[:MANY])
        more = "\n  and more" if len(found) > MANY else ""
        raise DataError(
            f"{data_dir} is damaged:\n{listed}{more}\nCopy these files again, "
            "or make the data set again."
        )
    return len(manifest.files)


def _problems(manifest: Manifest, data_dir: str) -> Iterator[str]:
    yield from manifest_lib.file_problems(manifest, data_dir)
    for file in manifest.files:
        path = pathlib.Path(data_dir, file.name)
        if not path.is_file():
            continue  # named above
        entry = manifest_lib.describe(data_dir, file.name)
        if entry.sha256 == file.sha256:
            continue
        yield from _where(manifest, data_dir, file.name)
        yield (
            f"{path}: its SHA-256 is {entry.sha256}; the manifest says "
            f"{file.sha256}."
        )


def _where(manifest: Manifest, data_dir: str, name: str) -> Iterator[str]:
    """Yields which records of a shard are damaged."""
    for split, entry in manifest.splits.items():
        names = [shard.name for shard in entry.shards]
        if name not in names:
            continue
        try:
            index = manifest_lib.load_index(manifest, data_dir, split)
        except (DataError, OSError):
            return  # the index itself is named as damaged
        rows = index[index["shard"] == names.index(name)]
        path = pathlib.Path(data_dir, name)
        for problem in manifest_lib.record_problems(path, rows):
            yield f"{path} is damaged {problem}."


def main(config: VerifyConfig) -> None:
    """Verifies the data set that the flag names."""
    data_dir = config.verification.data_dir
    print(f"{data_dir}: {verify(data_dir)} files are as the manifest says")


def cli() -> None:
    """Runs the command line."""
    command.run(main, VerifyConfig)


if __name__ == "__main__":
    cli()
