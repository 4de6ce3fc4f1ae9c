"""Command line: a folder of labelled images -> TFRecords and a manifest.

python -m data_prep.task --source=photos --output_dir=data
"""

from absl import flags

from data_prep import command
from data_prep.audit import ENCODINGS
from data_prep.audit import RESIZES
from data_prep.prepare import DEFAULT_SPLITS
from data_prep.prepare import PrepareConfig
from data_prep.prepare import prepare
from data_prep.prepare import summary

_HELPS = {
    "source": "Folder of labelled images: CLASS/image or SPLIT/CLASS/image.",
    "output_dir": "Where the data set goes. Must not exist, or be empty.",
    "layout": "What the folders below --source are; auto takes them for "
    "splits where all have the name of one.",
    "splits": "Fractions (train:0.8,validation:0.1,test:0.1) or images per "
    "class (train:1000,validation:500). Empty keeps the splits that the "
    f"folders give, or takes {DEFAULT_SPLITS} where they give none.",
    "image_size": "Stored width and height in pixels; 0 keeps every image's "
    "own.",
    "resize": "How a picture fits a square, here and in the trainer: "
    "distorted, cut to the middle, or with black borders.",
    "encoding": "Store each file's own bytes, JPEG, or uint8 pixels. Empty is "
    "original with --image_size=0 and jpeg otherwise.",
    "on_bad_image": "What to do when a file is no whole image.",
    "shard_mb": "Size of a shard to aim at, in MiB.",
    "workers": "Number of processes; 0 is one per processor.",
    "seed": "Seed of the splits and of the order of the records.",
}
_CHOICES = {
    "layout": ("auto", "class_folders", "split_folders"),
    "resize": RESIZES,
    "encoding": ("", *ENCODINGS),
    "on_bad_image": ("fail", "skip"),
}
_BOUNDS = {
    "image_size": (0, None),
    "shard_mb": (1, None),
    "workers": (0, None),
}


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags."""
    command.define_flags(
        PrepareConfig,
        helps=_HELPS,
        choices=_CHOICES,
        bounds=_BOUNDS,
        flag_values=flag_values,
    )


def main() -> None:
    """Builds the config from the flags and prepares the data set."""
    config = command.config_from_flags(PrepareConfig)
    print(summary(prepare(config)))
    print(f"data set: {config.output_dir}")


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(command)  # so that --help lists them
    command.run(main)
