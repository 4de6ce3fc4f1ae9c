"""Command line: a folder of labelled images -> TFRecords and a manifest.

python -m data_prep.task --source=photos --output_dir=data
"""

import dataclasses

from absl import flags

from data_prep import command
from data_prep.audit import ENCODINGS
from data_prep.audit import RESIZES
from data_prep.prepare import DEFAULT_SPLITS
from data_prep.prepare import PrepareConfig
from data_prep.prepare import prepare
from data_prep.prepare import summary


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag per field of `PrepareConfig`."""
    default = {f.name: f.default for f in dataclasses.fields(PrepareConfig)}

    def define(kind, name, text, *choices, **bounds):
        value = default[name]
        value = None if value is dataclasses.MISSING else value
        kind(name, value, *choices, text, flag_values=flag_values, **bounds)

    define(
        flags.DEFINE_string,
        "source",
        "Folder of labelled images: CLASS/image or SPLIT/CLASS/image.",
    )
    define(
        flags.DEFINE_string,
        "output_dir",
        "Where the data set goes. Must not exist, or be empty.",
    )
    define(
        flags.DEFINE_enum,
        "layout",
        "What the folders below --source are; auto takes them for splits "
        "where all have the name of one.",
        ["auto", "class_folders", "split_folders"],
    )
    define(
        flags.DEFINE_string,
        "splits",
        "Fractions (train:0.8,validation:0.1,test:0.1) or images per class "
        "(train:1000,validation:500). Empty keeps the splits that the folders "
        f"give, or takes {DEFAULT_SPLITS} where they give none.",
    )
    define(
        flags.DEFINE_integer,
        "image_size",
        "Stored width and height in pixels; 0 keeps every image's own.",
        lower_bound=0,
    )
    define(
        flags.DEFINE_enum,
        "resize",
        "How a picture fits a square, here and in the trainer: distorted, cut "
        "to the middle, or with black borders.",
        list(RESIZES),
    )
    define(
        flags.DEFINE_enum,
        "encoding",
        "Store each file's own bytes, JPEG, or uint8 pixels. Empty is original "
        "with --image_size=0 and jpeg otherwise.",
        ["", *ENCODINGS],
    )
    define(
        flags.DEFINE_enum,
        "on_bad_image",
        "What to do when a file is no whole image.",
        ["fail", "skip"],
    )
    define(
        flags.DEFINE_integer,
        "shard_mb",
        "Size of a shard to aim at, in MiB.",
        lower_bound=1,
    )
    define(
        flags.DEFINE_integer,
        "workers",
        "Number of processes; 0 is one per processor.",
        lower_bound=0,
    )
    define(
        flags.DEFINE_integer,
        "seed",
        "Seed of the splits and of the order of the records.",
    )


def main() -> None:
    """Builds the config from the flags and prepares the data set."""
    values = flags.FLAGS
    config = PrepareConfig(
        **{
            field.name: getattr(values, field.name)
            for field in dataclasses.fields(PrepareConfig)
        }
    )
    manifest = prepare(config)
    print(summary(manifest))
    print(f"data set: {config.output_dir}")


if __name__ == "__main__":
    define_flags()
    command.run(main)
