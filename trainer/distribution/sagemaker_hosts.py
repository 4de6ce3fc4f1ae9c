"""The hosts of a SageMaker training job, and where its files are."""

import json
import pathlib
from collections.abc import Mapping

from data_prep.runtime.errors import UsageError

OPT_ML = pathlib.Path("/opt/ml")


def find(
    environ: Mapping[str, str], opt_ml: pathlib.Path = OPT_ML
) -> tuple[list[str], str] | None:
    """Returns all hosts and this host; None where this is not SageMaker.

    SageMaker's toolkits set SM_HOSTS; a container with an entry point of its
    own finds only the file.

    Args:
        environ: Environment variables.
        opt_ml: SageMaker's folder, `OPT_ML` unless in a test.

    Raises:
        UsageError: If the variable or the file cannot be read.
    """
    if environ.get("SM_HOSTS"):
        return _from_variable(
            "the variable SM_HOSTS",
            environ["SM_HOSTS"],
            environ.get("SM_CURRENT_HOST", ""),
        )
    path = opt_ml / "input" / "config" / "resourceconfig.json"
    if "TRAINING_JOB_NAME" not in environ or not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        return list(content["hosts"]), content["current_host"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error!r}. Expected JSON with hosts and "
            "current_host."
        ) from None


def _from_variable(what: str, text: str, current: str) -> tuple[list[str], str]:
    try:
        return [str(host) for host in json.loads(text)], current
    except (ValueError, TypeError) as error:
        raise UsageError(
            f'{what} cannot be read: {error}. Expected JSON such as ["algo-1"].'
        ) from None
