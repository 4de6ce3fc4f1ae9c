"""Command line: checks a finished data set against its manifest.

python -m data_prep.verify --data_dir=data
"""

import hashlib
import pathlib

from absl import flags

from data_prep import command
from data_prep import manifest as manifest_lib
from data_prep.errors import DataError
from data_prep.errors import UsageError


def verify(data_dir: str) -> int:
    """Reads every file of a data set and compares its SHA-256.

    Returns:
        The number of files, all of them whole.

    Raises:
        DataError: If a file is missing or not what the manifest says.
    """
    manifest = manifest_lib.load(data_dir)
    files = [
        file
        for split in manifest.splits.values()
        for file in (*split.shards, split.index)
    ]
    for file in files:
        path = pathlib.Path(data_dir, file.name)
        with open(path, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != file.sha256:
            raise DataError(
                f"{path} is damaged: its SHA-256 is {found}; the manifest "
                f"says {file.sha256}. Copy it again, or make the data set "
                "again."
            )
    return len(files)


def main() -> None:
    """Verifies the data set that the flag names."""
    data_dir = flags.FLAGS.data_dir
    if not data_dir:
        raise UsageError("--data_dir is missing: the data set to check.")
    print(f"{data_dir}: {verify(data_dir)} files are as the manifest says")


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "The data set to check.")
    command.run(main)
