"""What was submitted: a file in the job's folder, for whoever follows it."""

import dataclasses
import json
import pathlib

from data_prep.runtime import atomic
from data_prep.runtime.errors import UsageError

FILE = "submitted.json"


@dataclasses.dataclass(frozen=True)
class Submitted:
    """A job, as its platform knows it.

    Attributes:
        target: As `--target` names it.
        name: The job's name.
        ids: What the platform called each of its jobs.
        folder: The job's folder.
        model_dirs: Of each run: a path, or an address in object storage.
        place: Region or namespace, "" where the target has none.
        kind: Of an object of Kubernetes or of Vertex AI, else "".
        log: Path of the log's files, with wildcards, or "".
        began: Of a process of this machine: when, as psutil says it.
    """

    target: str
    name: str
    ids: tuple[str, ...]
    folder: str
    model_dirs: tuple[str, ...]
    place: str = ""
    kind: str = ""
    log: str = ""
    began: float = 0.0

    def save(self) -> None:
        """Writes it into the job's folder."""
        content = dataclasses.asdict(self)
        atomic.write_json(pathlib.Path(self.folder, FILE), content)


def load(folder: pathlib.Path) -> Submitted:
    """Returns what was submitted from a job's folder.

    Raises:
        UsageError: If nothing was, naming the jobs that are there.
    """
    try:
        content = json.loads((folder / FILE).read_text())
        lists = {key: tuple(content[key]) for key in ("ids", "model_dirs")}
        return Submitted(**{**content, **lists})
    except FileNotFoundError:
        found = sorted(p.parent.name for p in folder.parent.glob(f"*/{FILE}"))
        raise UsageError(
            f"no job was submitted from {folder}. Submitted were: "
            f"{', '.join(found) or 'none'}; --output_dir is where submit wrote."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder / FILE} cannot be read ({error!r}): submit again."
        ) from None
