"""Command line: a data set -> a trained, evaluated, exported classifier.

python -m trainer.task --data_dir=data --model_dir=model
"""

import os
import pathlib
import sys

from data_prep.runtime.errors import EXIT_STOPPED

if __name__ == "__main__":  # before all that takes time to import
    from data_prep.runtime import signals

    signals.watch(EXIT_STOPPED)

# ruff: noqa: E402
from absl import flags

from data_prep.runtime import command
from data_prep.runtime import directory_lock
from data_prep.runtime import startup
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import TrainingError
from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.distribution import command_line
from trainer.distribution import handover
from trainer.distribution import platform_settings
from trainer.distribution.cluster import Cluster
from trainer.distribution.cluster import find_cluster
from trainer.distribution.cluster import is_first
from trainer.engine import start_rule

_EXPECTED = (UsageError, DataError, TrainingError, Stopped)


def adopt_platform(flag_values: flags.FlagValues) -> None:
    """Adopts the command line and the defaults that the platform sets.

    Args:
        flag_values: The command's flags, not parsed yet.
    """
    booleans = {name for name in flag_values if flag_values[name].boolean}
    sys.argv[1:] = command_line.normalise(sys.argv[1:], booleans)
    platform = platform_settings.find(os.environ)
    for name in ("data_dir", "model_dir"):
        if value := getattr(platform, name):
            flag_values.set_default(name, value)


def main(config: Config) -> None:
    """Trains and gives the platform what it expects of a job.

    Args:
        config: All settings of the run.
    """
    platform = platform_settings.find(os.environ)
    cluster = None
    try:
        refuse_object_storage(config)
        cluster = find_cluster(os.environ)
        startup.require_tensorflow()
        if is_first(cluster):
            for place in (platform.publish_dir, platform.metric_file):
                if place:
                    handover.refuse_unwritable(pathlib.Path(place))
            # It has the directory to itself.
            directory_lock.refuse_if_held(pathlib.Path(config.run.model_dir))
        # With its size chosen, so that the run need not read the index for it.
        config, _ = start_rule.check(config)
        done = start_rule.finished(config)
        if done is None:
            done = _train(config, cluster, platform.log_dir or "")
        if is_first(cluster):
            _hand_over(config, platform, done)
    except Exception as error:
        if platform.failure_file and not isinstance(error, Stopped):
            handover.report_failure(platform.failure_file, error)
        if cluster and isinstance(error, _EXPECTED):
            # The messages of all workers often lie in one log.
            raise type(error)(f"worker {cluster.index}: {error}") from error
        raise
    print(f"model: {config.run.model_dir}")


def _train(config: Config, cluster: Cluster | None, log_dir: str) -> dict:
    startup.import_tensorflow()
    from trainer.run import run

    return run(config, cluster=cluster, log_dir=log_dir)


def refuse_object_storage(config: Config) -> None:
    """Refuses addresses of object storage, which are not local folders.

    Args:
        config: All settings of the run.

    Raises:
        UsageError: If a path is such an address.
    """
    values = config.values()
    for one in config.settings():
        if one.path and "://" in values[one.name]:
            raise UsageError(
                f"--{one.name}={values[one.name]} lies in object storage. The "
                "same flags after `python -m launch.staged --` copy it in and "
                "out."
            )


def _hand_over(
    config: Config, platform: platform_settings.PlatformSettings, done: dict
) -> None:
    if platform.publish_dir:
        handover.publish(config.run.model_dir, platform.publish_dir)
    if platform.metric_file:
        best = done["exported"]
        handover.report_trial(best["val_accuracy"], best["epoch"])


def cli() -> None:
    """Runs the command line."""
    command.run(main, Config, adopt=adopt_platform)


if __name__ == "__main__":
    cli()
