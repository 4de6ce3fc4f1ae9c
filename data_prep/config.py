"""What `prepare` is to do: its settings, declared once, checked when built."""

import dataclasses
import pathlib
import re

from data_prep.catalogue import findings
from data_prep.catalogue import splitting
from data_prep.images.encoding import ENCODINGS
from data_prep.images.geometry import MAX_SIDE
from data_prep.images.geometry import RESIZES
from data_prep.runtime import settings
from data_prep.runtime import storage
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import PROCESS
from data_prep.runtime.settings import setting
from data_prep.sources import file_names
from data_prep.sources import table

DEFAULT_SPLITS = "train:0.8,validation:0.1,test:0.1"
# No two of 4000 different photos are so alike.
_LEAST_SIMILARITY = 0.8


@dataclasses.dataclass(frozen=True)
class Source(settings.Group):
    """Where the images are."""

    source: str = setting(
        "",
        "Folder of labelled images, also gs:// or s3://; csv:FILE, a CSV or "
        "TSV file with the columns path, label and perhaps split; or "
        "tfds:NAME, a TensorFlow Datasets name with perhaps a version "
        "(tfds:cats_vs_dogs:4.*.*), or a directory that TFDS prepared.",
        path=settings.Path(
            settings.READ, stores=True, prefixes=("csv:", "tfds:")
        ),
        required=True,
    )
    layout: str = setting(
        "auto",
        "class_folders, split_folders (train/training, val/valid/validation, "
        "test/evaluation) or file_names; auto takes the folders for splits "
        "where every one has the name of a split.",
        choices=("auto", "class_folders", "split_folders", "file_names"),
    )
    label_pattern: str = setting(
        "",
        "How a file's name carries its label: kaggle (cat.123.jpg), food5k "
        "(1_23.jpg), or a regular expression with a group named label, such "
        "as '(?P<label>[a-z]+)-'.",
    )

    path_column: str = setting(
        "path",
        "Column of a table that holds the images' paths, relative to the "
        "table's folder. On this machine their endings may be missing.",
    )
    path_template: str = setting(
        "",
        "In place of --path_column: the path, with names of columns in braces, "
        "such as 'train/{id}.jpg'.",
    )
    label_column: str = setting(
        "label", "Column of a table that holds the classes."
    )
    split_column: str = setting(
        "",
        "Column of a table that holds the splits, named as the folders of "
        "--layout=split_folders are. Empty is split, where there is one.",
    )
    corrections: str = setting(
        "",
        "CSV file with the columns file and label, as `shardtune inspect` "
        "writes it: images that are left out, where label is empty, or get "
        "that label.",
        path=settings.Path(settings.READ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_columns()
        if self.label_pattern:
            file_names.compile_pattern(self.label_pattern)
            if self.layout == "auto" and self.kind == "folder":
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
        if self.layout != "auto" and self.kind != "folder":
            raise UsageError(
                f"--layout={self.layout} is about folders. Received "
                f"--source={self.source}. Leave it out."
            )

    def _check_columns(self) -> None:
        if self.path_template and self.path_column != "path":
            raise UsageError(
                "--path_template and --path_column both say where the images "
                "are. Leave one out."
            )
        if self.path_template and not table.FIELD.search(self.path_template):
            raise UsageError(
                f"--path_template={self.path_template} names no column. "
                "Expected one in braces, such as 'train/{id}.jpg'."
            )
        columns = self.path_column, self.label_column, self.split_column
        if self.kind != "csv" and (
            self.path_template or columns != ("path", "label", "")
        ):
            raise UsageError(
                "--path_column, --path_template, --label_column and "
                "--split_column are about tables. Received "
                f"--source={self.source}. Expected --source=csv:FILE."
            )

    @property
    def columns(self) -> table.Columns:
        """Which columns of a table are read."""
        path = self.path_template or f"{{{self.path_column}}}"
        return table.Columns(path, self.label_column, self.split_column)

    @property
    def kind(self) -> str:
        """ "folder", "csv" or "tfds"."""
        kind, colon, _ = self.source.partition(":")
        return kind if colon and kind in ("csv", "tfds") else "folder"

    @property
    def place(self) -> str:
        """The folder, the table, or the name of the TFDS data set."""
        if self.kind == "folder":
            return self.source
        return self.source.partition(":")[2]

    @property
    def name(self) -> str:
        """First part of the file names: a valid name of a TFDS data set."""
        kind, name = self.kind, self.place
        if kind == "tfds" and "/" not in name:
            name = name.partition(":")[0]
        path = pathlib.Path(name).resolve()
        if kind == "tfds" and re.fullmatch(r"[\d.]+", path.name):
            path = path.parent  # DIR/NAME/VERSION
        stem = path.stem if kind == "csv" else path.name
        name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")
        # TFDS takes names that begin with a letter.
        return name if name[:1].isalpha() else f"images_{name}".strip("_")


@dataclasses.dataclass(frozen=True)
class Checks(settings.Group):
    """What stops the run."""

    on_bad_image: str = setting(
        "fail",
        "fail names every bad image and stops; skip leaves them out and "
        "counts them.",
        choices=("fail", "skip"),
    )
    duplicates: str = setting(
        "keep",
        "Files of the same bytes: keep them in one split; drop all but one, "
        "and all of them where their labels differ; or fail.",
        choices=("keep", "drop", "fail"),
    )
    similarity: float = setting(
        0.99,
        "How alike two images are that count as one picture, which stays in "
        "one split: the least correlation of their thumbnails, 0.8 to 1. 0.97 "
        "finds slight crops too. Simple drawings and photos of a fixed camera "
        "need one closer to 1, or 0: then only files of the same bytes are "
        "one picture.",
        low=0,
        high=1,
    )
    on_leak: str = setting(
        "fail",
        "One picture in two of the splits that the source gives, or there "
        "under two labels: fail names them and stops; drop leaves what is in "
        "test out of validation and train, what is in validation out of "
        "train, and what has two labels out of all; keep only names them.",
        choices=("fail", "drop", "keep"),
    )
    fail_on: str = setting(
        "",
        "Findings of the audit that stop the run, some of "
        f"{','.join(findings.KINDS)}.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.similarity < _LEAST_SIMILARITY:
            raise UsageError(
                f"--similarity={self.similarity:g} is impossible: expected 0, "
                f"or {_LEAST_SIMILARITY:g} to 1. Below that, different photos "
                "count as one."
            )
        for kind in self.fail_on_kinds:
            if kind not in findings.KINDS:
                raise UsageError(
                    f"--fail_on={self.fail_on} has an unknown finding "
                    f"{kind!r}: {settings.did_you_mean(kind, findings.KINDS)}"
                    f"expected some of {', '.join(findings.KINDS)}."
                )

    @property
    def fail_on_kinds(self) -> list[str]:
        """The findings that stop the run."""
        return [k.strip() for k in self.fail_on.split(",") if k.strip()]


@dataclasses.dataclass(frozen=True)
class Splits(settings.Group):
    """Splits and order."""

    splits: str = setting(
        "",
        "Fractions (train:0.8,validation:0.1,test:0.1) or images per class "
        "(train:1000,validation:500). Given for a source with splits, it "
        "splits all images anew; empty keeps those, or takes "
        f"{DEFAULT_SPLITS} where there are none.",
        first=True,
    )
    validation_fraction: float = setting(
        0.0,
        "Share of the train split that becomes the validation split, where "
        "the source gives train and perhaps test, but no validation. The "
        "given test split stays.",
        low=0,
        high=0.9,
    )
    small_classes: str = setting(
        "",
        "A class with too few images for every split: train keeps them there "
        "alone, drop leaves the class out, fail stops. Empty is train for "
        "fractions, and fail for images per class.",
        choices=("", "train", "drop", "fail"),
    )
    splits_from: str = setting(
        "",
        "A data set made before: images that are in it keep their split.",
        path=settings.Path(settings.READ, stores=True),
    )
    seed: int = setting(
        0, "Seed of the splits and of the order of the records."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.splits:
            splitting.parse_spec(self.splits)


@dataclasses.dataclass(frozen=True)
class Records(settings.Group):
    """How images are stored."""

    image_size: int = setting(
        0,
        "Stored width and height in pixels; 0 keeps every image's own.",
        low=0,
        high=MAX_SIDE,
    )
    resize: str = setting(
        "stretch",
        "How an image fits a square, here, in training and in the exported "
        "model: stretch, crop to the middle, or pad with black.",
        choices=RESIZES,
    )
    encoding: str = setting(
        "",
        "original keeps each file's bytes; jpeg and raw (uint8 pixels) store "
        "resized images. Empty is original with --image_size=0, else jpeg.",
        choices=("", *ENCODINGS),
    )
    shard_mb: int = setting(
        64, "Size of a shard to aim at, in MiB.", low=1, high=100_000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
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


@dataclasses.dataclass(frozen=True)
class Output(settings.Group):
    """Where the work is done, and where the result goes."""

    output_dir: str = setting(
        "",
        "Where the data set goes, also gs:// or s3://. Must not exist, or be "
        "empty.",
        path=settings.Path(settings.WRITTEN, stores=True),
        scope=PROCESS,
        required=True,
    )
    workers: int = setting(
        0,
        "Processes; 0 is one per processor. The output does not depend on it.",
        low=0,
        high=1000,
        scope=PROCESS,
    )
    runner: str = setting(
        "local",
        "local, or beam: Apache Beam (`pip install 'shardtune[beam]'`), with "
        "the same output.",
        choices=("local", "beam"),
        scope=PROCESS,
    )
    beam_options: str = setting(
        "",
        "Options of the Beam pipeline, such as '--runner=DataflowRunner --project=P "
        "--region=R --temp_location=gs://B/tmp --sdk_container_image=IMAGE', "
        "an image with Beam and shardtune; empty is the DirectRunner. Workers "
        "of other machines need source and output in object storage, or on a "
        "file system that they share.",
        scope=PROCESS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _, url, place = self.output_dir.partition("://")
        if url and "/" not in place.strip("/"):
            raise UsageError(
                f"--output_dir={self.output_dir} is a whole bucket. Name a "
                "folder in it."
            )
        if self.beam_options and self.runner != "beam":
            raise UsageError(
                f"--beam_options={self.beam_options} has no meaning with "
                f"--runner={self.runner}. Pass --runner=beam."
            )


class PrepareConfig(settings.Config):
    """Everything a data set is made by; the flags of `data_prep.task`.

    Raises:
        UsageError: If a setting is impossible, or some contradict each other.
    """

    source: Source
    splits: Splits
    records: Records
    checks: Checks
    output: Output

    def check(self) -> None:
        """Refuses what source and output forbid together."""
        self._refuse_output_in_source()
        self._refuse_local_on_dataflow()

    def _refuse_output_in_source(self) -> None:
        """Refuses an output folder that would pass for a class."""
        if self.source.kind != "folder":
            return
        place, output_dir = self.source.place, self.output.output_dir
        if storage.is_url(output_dir):
            inside = f"{output_dir}/".startswith(f"{place.rstrip('/')}/")
        else:
            target = pathlib.Path(output_dir).resolve()
            inside = target.is_relative_to(pathlib.Path(place).resolve())
        if inside:
            raise UsageError(
                f"--output_dir={output_dir} lies in --source="
                f"{self.source.source}, where it would pass for a class. Pass "
                "a folder outside of it."
            )

    def _refuse_local_on_dataflow(self) -> None:
        """Refuses folders of this machine where Dataflow is to see them."""
        source, output = self.source, self.output
        in_stores = storage.is_url(source.place) and storage.is_url(
            output.output_dir
        )
        if "dataflow" in output.beam_options.lower() and not in_stores:
            raise UsageError(
                "Dataflow sees no folder of this machine. Received --source="
                f"{source.source} and --output_dir={output.output_dir}; "
                "expected gs://BUCKET/PHOTOS or csv:gs://BUCKET/TABLE, and "
                "gs://BUCKET/DATA."
            )
