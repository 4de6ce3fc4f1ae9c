"""What `prepare` is to do, checked when it is built."""

import dataclasses
import pathlib
import re

from data_prep import findings
from data_prep import remote
from data_prep import splits
from data_prep.errors import UsageError
from data_prep.sources import file_names

DEFAULT_SPLITS = "train:0.8,validation:0.1,test:0.1"

# What changes how a data set is made, but not what is made.
_NOT_CONTENT = ("output_dir", "workers", "runner", "beam_options")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """The flags of `data_prep.task`.

    Attributes:
        source: Folder of labelled images, "csv:FILE", or "tfds:NAME".
        output_dir: Where the data set goes; must not exist, or be empty.
        layout: "auto", "class_folders", "split_folders" or "file_names".
        label_pattern: As `file_names.compile_pattern` takes it; makes "auto"
            mean "file_names".
        splits: As `splits.parse_spec` takes it; "" keeps the splits that the
            source gives, or takes `DEFAULT_SPLITS` where it gives none.
        splits_from: A data set made before, whose images keep their splits.
        image_size: Stored width and height in pixels; 0 keeps each size.
        resize: How a picture fits the square: "stretch", "crop" or "pad".
        encoding: "original", "jpeg" or "raw"; "" is "original" where
            the size is kept and "jpeg" where it is not.
        on_bad_image: "fail" or "skip".
        duplicates: "keep", "drop" or "fail", for files of the same bytes.
        fail_on: Names of `findings.KINDS`, separated by commas.
        shard_mb: Size of a shard to aim at, in MiB.
        workers: Processes; 0 is one per processor.
        runner: "local" or "beam".
        beam_options: Options of the Beam pipeline, as on its command line.
        seed: Of the splits and of the order of records.
    """

    source: str
    output_dir: str
    layout: str = "auto"
    label_pattern: str = ""
    splits: str = ""
    splits_from: str = ""
    image_size: int = 0
    resize: str = "stretch"
    encoding: str = ""
    on_bad_image: str = "fail"
    duplicates: str = "keep"
    fail_on: str = ""
    shard_mb: int = 64
    workers: int = 0
    runner: str = "local"
    beam_options: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.source:
            raise UsageError(
                "--source is missing: a folder of images, csv:FILE or "
                "tfds:NAME."
            )
        if not self.output_dir:
            raise UsageError(
                "--output_dir is missing: where the data set goes."
            )
        _, url, place = self.output_dir.partition("://")
        if url and "/" not in place.strip("/"):
            raise UsageError(
                f"--output_dir={self.output_dir} is a whole bucket. Name a "
                "folder in it."
            )
        if self.splits:
            splits.parse_spec(self.splits)
        if self.encoding == "original" and self.image_size:
            raise UsageError(
                "--encoding=original keeps each image's own bytes and so its "
                f"size. Received --image_size={self.image_size}. Use "
                "--encoding=jpeg or raw, or --image_size=0."
            )
        if self.encoding == "raw" and not self.image_size:
            raise UsageError(
                "--encoding=raw stores pixels of one size. Set --image_size."
            )
        if not self.encoding:
            default = "jpeg" if self.image_size else "original"
            object.__setattr__(self, "encoding", default)
        self._check_layout()
        self.fail_on_kinds  # noqa: B018  raises where one is unknown
        if self.beam_options and self.runner != "beam":
            raise UsageError(
                f"--beam_options={self.beam_options} has no meaning with "
                f"--runner={self.runner}. Pass --runner=beam."
            )
        _, name = self.source_kind
        distant = remote.is_url(name) and remote.is_url(self.output_dir)
        if "dataflow" in self.beam_options.lower() and not distant:
            raise UsageError(
                "Dataflow sees no folder of this machine. Received --source="
                f"{self.source} and --output_dir={self.output_dir}; expected "
                "gs://BUCKET/PHOTOS or csv:gs://BUCKET/TABLE, and "
                "gs://BUCKET/DATA."
            )

    def _check_layout(self) -> None:
        if self.label_pattern:
            file_names.compile_pattern(self.label_pattern)
            if self.layout == "auto" and self.source_kind[0] == "folder":
                object.__setattr__(self, "layout", "file_names")
            if self.layout != "file_names":
                raise UsageError(
                    f"--label_pattern={self.label_pattern} has no meaning "
                    f"with --source={self.source} --layout={self.layout}. "
                    "Expected a folder and --layout=file_names."
                )
        if self.layout == "file_names" and not self.label_pattern:
            raise UsageError(
                "--layout=file_names needs --label_pattern: "
                f"{', '.join(file_names.PRESETS)}, or a regular expression "
                "with a group named label."
            )
        if self.layout != "auto" and self.source_kind[0] != "folder":
            raise UsageError(
                f"--layout={self.layout} is about folders. Received "
                f"--source={self.source}. Leave it out."
            )

    @property
    def source_kind(self) -> tuple[str, str]:
        """ "folder", "csv" or "tfds", and what of that kind."""
        kind, colon, name = self.source.partition(":")
        if colon and kind in ("csv", "tfds"):
            return kind, name
        return "folder", self.source

    @property
    def name(self) -> str:
        """First part of the file names: a valid name of a TFDS data set."""
        kind, name = self.source_kind
        if kind == "tfds" and "/" not in name:
            name = name.partition(":")[0]
        path = pathlib.Path(name).resolve()
        if kind == "tfds" and re.fullmatch(r"[\d.]+", path.name):
            path = path.parent  # DIR/NAME/VERSION
        stem = path.stem if kind == "csv" else path.name
        name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")
        # TFDS takes names that begin with a letter.
        return name if name[:1].isalpha() else f"images_{name}".strip("_")

    @property
    def fail_on_kinds(self) -> list[str]:
        """The findings that stop the run.

        Raises:
            UsageError: If one is unknown.
        """
        kinds = [k.strip() for k in self.fail_on.split(",") if k.strip()]
        for kind in kinds:
            if kind not in findings.KINDS:
                raise UsageError(
                    f"--fail_on={self.fail_on} has an unknown finding "
                    f"{kind!r}. Expected some of {', '.join(findings.KINDS)}."
                )
        return kinds

    @property
    def content_flags(self) -> dict[str, object]:
        """The flags that decide what is made, not how or where."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in _NOT_CONTENT
        }
