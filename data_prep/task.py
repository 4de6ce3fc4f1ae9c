"""Command line: labelled images -> TFRecords and a manifest.

python -m data_prep.task --source=photos --output_dir=data
"""

from absl import flags

from data_prep import command
from data_prep.audit import ENCODINGS
from data_prep.audit import RESIZES
from data_prep.config import DEFAULT_SPLITS
from data_prep.config import PrepareConfig
from data_prep.findings import KINDS
from data_prep.prepare import prepare
from data_prep.prepare import summary

_HELPS = {
    "source": "Folder of labelled images, csv:FILE (columns path, label and "
    "perhaps split), or tfds:NAME (a name with its version, or a directory).",
    "output_dir": "Where the data set goes. Must not exist, or be empty.",
    "layout": "What the folders below --source are; auto takes them for "
    "splits where all have the name of one.",
    "label_pattern": "How a file's name carries its label: kaggle "
    "(cat.123.jpg), food5k (1_23.jpg) or a regular expression with a group "
    "named label.",
    "splits": "Fractions (train:0.8,validation:0.1,test:0.1) or images per "
    "class (train:1000,validation:500). Empty keeps the splits that the "
    f"source gives, or takes {DEFAULT_SPLITS} where it gives none.",
    "splits_from": "A data set made before: images that are in it keep their "
    "split.",
    "image_size": "Stored width and height in pixels; 0 keeps every image's "
    "own.",
    "resize": "How a picture fits a square, here and in the trainer: "
    "distorted, cut to the middle, or with black borders.",
    "encoding": "Store each file's own bytes, JPEG, or uint8 pixels. Empty is "
    "original with --image_size=0 and jpeg otherwise.",
    "on_bad_image": "What to do when a file is no whole image.",
    "duplicates": "What to do with files of the same bytes.",
    "fail_on": f"Findings that stop the run: {', '.join(KINDS)}.",
    "shard_mb": "Size of a shard to aim at, in MiB.",
    "workers": "Number of processes; 0 is one per processor.",
    "runner": "Where the work is done: in processes here, or on Apache Beam.",
    "beam_options": "Options of the Beam pipeline, such as "
    "'--runner=DataflowRunner --project=P'. Empty is the DirectRunner.",
    "seed": "Seed of the splits and of the order of the records.",
}
_CHOICES = {
    "layout": ("auto", "class_folders", "split_folders", "file_names"),
    "resize": RESIZES,
    "encoding": ("", *ENCODINGS),
    "on_bad_image": ("fail", "skip"),
    "duplicates": ("keep", "drop", "fail"),
    "runner": ("local", "beam"),
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
