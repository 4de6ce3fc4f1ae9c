"""Command line: checks a finished data set against its manifest.

python -m data_prep.verify --data_dir=data
"""

import itertools
import pathlib
import tempfile
from collections.abc import Iterator

from absl import flags

from data_prep import command
from data_prep import manifest as manifest_lib
from data_prep import remote
from data_prep.errors import DataError
from data_prep.errors import UsageError
from data_prep.manifest import Manifest

MANY = 10  # problems named in a message before "and more"


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
    if remote.is_url(data_dir):
        url = data_dir.rstrip("/")
        with tempfile.TemporaryDirectory() as copy:
            for _, name, _ in remote.files(url):
                if "/" not in name:
                    remote.fetch(url, copy, [name])
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


def main() -> None:
    """Verifies the data set that the flag names."""
    data_dir = flags.FLAGS.data_dir
    if not data_dir:
        raise UsageError("--data_dir is missing: the data set to check.")
    print(f"{data_dir}: {verify(data_dir)} files are as the manifest says")


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "The data set to check.")
    command.run(main)
