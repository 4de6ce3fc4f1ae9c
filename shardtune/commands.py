"""The commands of `shardtune`: name, module, and one line of what it does.

Imports none of the modules, so that `shardtune --help` answers at once.
"""

import dataclasses
import importlib
import typing
from typing import Any


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        module: Run by its `cli()`; `python -m MODULE` does the same.
        summary: What it does, in one line.
        saves_when_stopped: Whether it saves its state when a signal asks it
            to stop, so that it has to listen before TensorFlow is imported.
    """

    module: str
    summary: str
    saves_when_stopped: bool = False


COMMANDS = {
    "prepare": Command(
        "data_prep.task", "labelled images -> audited, split data set"
    ),
    "verify": Command("data_prep.verify", "check a data set's files"),
    "train": Command(
        "trainer.task",
        "data set -> trained, evaluated, exported classifier",
        saves_when_stopped=True,
    ),
    "evaluate": Command("trainer.evaluate", "measure a model on a split"),
    "report": Command("trainer.report", "write a finished run's page again"),
    "predict": Command("trainer.predict", "classify image files"),
    "serve": Command("trainer.serve", "answer over HTTP what images are"),
    "export": Command("trainer.export", "export a model's best epoch again"),
    "features": Command(
        "trainer.features",
        "run the frozen base over a data set, keep what it gives",
        saves_when_stopped=True,
    ),
    "inspect": Command(
        "trainer.inspect",
        "find likely wrong labels and strange images",
        saves_when_stopped=True,
    ),
    "search": Command(
        "trainer.search",
        "try settings, end hopeless trials early, finish the best",
        saves_when_stopped=True,
    ),
    "preview": Command("trainer.preview", "show what an augmentation does"),
    "find-lr": Command("trainer.find_lr", "learning-rate range test"),
    "weights": Command("trainer.weights", "download ImageNet weights ahead"),
    "submit": Command(
        "launch.submit",
        "the same training on Slurm, Kubernetes, Vertex AI, ...",
    ),
    "status": Command("launch.status", "how a submitted job is"),
    "logs": Command("launch.logs", "what a submitted job prints"),
    "cancel": Command("launch.cancel", "stop a submitted job"),
    "fetch": Command("launch.fetch", "copy a submitted job's model here"),
    "compare": Command("launch.compare", "table of what several runs reached"),
    "quickstart": Command(
        "launch.quickstart", "the whole path on 1797 handwritten digits"
    ),
    "completion": Command(
        "shardtune.completion", "completion script for bash, zsh or fish"
    ),
}


def config_class(module: str) -> type[Any]:
    """Returns the `settings.Config` that a command's `main` takes.

    Args:
        module: The command's module, such as "trainer.task".
    """
    main = importlib.import_module(module).main
    return next(iter(typing.get_type_hints(main).values()))
