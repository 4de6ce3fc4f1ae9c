"""Vertex AI: CustomJob and HyperparameterTuningJob, by gcloud."""

import importlib
import importlib.util
import math
import shlex
import sys
import textwrap
import types
from collections.abc import Mapping

import yaml

from data_prep.runtime.errors import UsageError
from launch import arguments
from launch.job import Job
from launch.job import Rendered
from launch.job import Work
from launch.job import replaced
from launch.targets import render as render_lib
from launch.targets import rules
from trainer.distribution import platform_settings

CONFIG = "job.yaml"
_GOOGLE = "google.cloud.aiplatform_v1"
# With GPUs (which it has itself) and without.
DEFAULT_MACHINE = "g2-standard-8"
DEFAULT_CPU_MACHINE = "n2-standard-8"
SCALES = {
    "linear": "UNIT_LINEAR_SCALE",
    "log": "UNIT_LOG_SCALE",
    "reverse_log": "UNIT_REVERSE_LOG_SCALE",
}


def render(job: Job, work: Work) -> Rendered:
    """Returns the configurations that gcloud takes; a sweep is a job a run.

    Raises:
        UsageError: If the image is not where Vertex AI reads.
    """
    if "/" not in job.vertex.image:
        raise UsageError(
            f"--image={job.vertex.image} is in no registry: expected something like "
            f"{job.vertex.region}-docker.pkg.dev/PROJECT/REPOSITORY/shardtune:0.1.0."
        )
    if job.vertex.tune:
        if work.runs:
            raise UsageError("--tune does not go with --grid or --flag_files.")
        return _tuning(job, work)
    runs = work.runs or ((),)
    files, commands = {}, []
    for number, run in enumerate(runs):
        name = (
            f"{job.common.name}-{number:03d}" if work.runs else job.common.name
        )
        file = f"{name}.yaml" if work.runs else CONFIG
        files[file] = render_lib.template(
            "vertex_custom_job.yaml",
            name=name,
            region=job.vertex.region,
            output_uri=job.vertex.output_uri,
            spec=_spec(job, work, (*work.arguments, *run)),
        )
        commands.append(
            (
                *("gcloud", "ai", "custom-jobs", "create"),
                *(f"--region={job.vertex.region}", f"--display-name={name}"),
                f"--config={job.common.folder / file}",
            )
        )
    return Rendered(
        files,
        tuple(commands),
        f"Watch: gcloud ai custom-jobs stream-logs JOB --region={job.vertex.region}. "
        "Stop: gcloud ai custom-jobs cancel JOB. Resume: the command above.",
    )


def check(files: Mapping[str, str]) -> None:
    """Refuses what Vertex AI would refuse, or take and not do.

    gcloud passes a misspelt key on; Google's own messages do not, so they
    read it too where `pip install shardtune[vertex]` put them.
    """
    for file, text in files.items():
        config = yaml.safe_load(text)
        tuning = "studySpec" in config or "trialJobSpec" in config
        _check_messages(file, config, tuning)
        _check_pools(file, config["trialJobSpec"] if tuning else config)


def _tuning(job: Job, work: Work) -> Rendered:
    parameters = "\n".join(
        _parameter(w, work) for w in shlex.split(job.vertex.tune)
    )
    # A trial writes where Vertex AI gives it a folder of its own.
    given = replaced(work.arguments, {"model_dir": None})
    text = render_lib.template(
        "vertex_tuning.yaml",
        name=job.common.name,
        region=job.vertex.region,
        output_uri=job.vertex.output_uri,
        trials=job.vertex.trials,
        parallel=job.vertex.parallel_trials,
        parameters=_indented(parameters, 2),
        spec=_indented(_spec(job, work, given), 2),
    )
    command = (
        *("gcloud", "ai", "hp-tuning-jobs", "create"),
        *(f"--region={job.vertex.region}", f"--display-name={job.common.name}"),
        f"--max-trial-count={job.vertex.trials}",
        f"--parallel-trial-count={job.vertex.parallel_trials}",
        f"--config={job.common.folder / CONFIG}",
    )
    return Rendered(
        {CONFIG: text},
        (command,),
        "Watch: gcloud ai hp-tuning-jobs describe JOB "
        f"--region={job.vertex.region}. Stop: gcloud ai hp-tuning-jobs cancel JOB.",
    )


def _parameter(word: str, work: Work) -> str:
    """Returns one searched flag, such as dropout=0:0.5 or dropout=0:0.5:log."""
    name, _, bounds = word.removeprefix("--").partition("=")
    low, _, rest = bounds.partition(":")
    high, _, scale = rest.partition(":")
    scale = scale or "linear"
    try:
        ordered = -math.inf < float(low) < float(high) < math.inf
    except ValueError:
        ordered = False
    if not ordered or scale not in SCALES:
        raise UsageError(
            f"--tune has {word!r}: expected name=low:high or name=low:high:"
            "SCALE with low below high and a scale of linear, log or "
            "reverse_log."
        )
    for value in (low, high):
        arguments.check(work.module, [*work.arguments, f"--{name}={value}"])
    whole = (
        low.isdigit() and high.isdigit() and not _takes_fractions(name, work)
    )
    kind = "integerValueSpec" if whole else "doubleValueSpec"
    return (
        f"- parameterId: {name}\n  scaleType: {SCALES[scale]}\n  {kind}:\n"
        f"    minValue: {_number(low)}\n    maxValue: {_number(high)}"
    )


def _number(text: str) -> str:
    """Returns a number as YAML 1.1 reads it: 1e-5 would be a text there."""
    mantissa, exponent, power = text.partition("e")
    dot = ".0" if exponent and "." not in mantissa else ""
    return f"{mantissa}{dot}{exponent}{power}"


def _takes_fractions(name: str, work: Work) -> bool:
    try:
        arguments.check(work.module, [*work.arguments, f"--{name}=0.5"])
    except UsageError:
        return False
    return True


def _spec(job: Job, work: Work, given: tuple[str, ...]) -> str:
    if work.module == "trainer.task":  # data_prep reads gs:// itself
        given = _mounted(given)
    default_machine = (
        DEFAULT_MACHINE if job.vertex.gpus else DEFAULT_CPU_MACHINE
    )
    words = {
        "image": render_lib.quoted(job.vertex.image),
        "module": render_lib.quoted(work.module),
        "arguments": render_lib.yaml_list(given, 2),
    }
    if job.vertex.package_uri:
        program = render_lib.template(
            "vertex_package.yaml",
            **words,
            package=render_lib.quoted(job.vertex.package_uri),
        )
    else:
        program = render_lib.template("vertex_container.yaml", **words)
    accelerator = render_lib.quoted(job.vertex.accelerator)

    def pool(replicas: int) -> str:
        text = render_lib.template(
            "vertex_pool.yaml",
            machine_type=job.vertex.machine_type or default_machine,
            accelerator=f"acceleratorType: {accelerator}"
            if job.vertex.gpus
            else "",
            count=f"acceleratorCount: {job.vertex.gpus}"
            if job.vertex.gpus
            else "",
            replicas=replicas,
            program=program.rstrip("\n"),
        )
        return _indented(text, 2)

    others = (
        f"- {pool(job.vertex.workers - 1)}" if job.vertex.workers > 1 else ""
    )
    account = job.vertex.service_account
    return render_lib.template(
        "vertex_spec.yaml",
        pool=pool(1),
        others=others,
        timeout=f"{60 * job.vertex.time_limit}s",
        strategy="SPOT" if job.vertex.spot else "STANDARD",
        restart="true" if job.vertex.workers > 1 else "false",
        account=f"serviceAccount: {account}" if account else "",
        output_uri=job.vertex.output_uri,
    ).rstrip("\n")


def _mounted(given: tuple[str, ...]) -> tuple[str, ...]:
    """Returns arguments with gs:// folders as Vertex AI mounts them."""
    found = []
    for argument in given:
        name, _, value = argument.partition("=")
        if value.startswith("gs://"):
            environ = {"AIP_MODEL_DIR": value}
            argument = f"{name}={platform_settings.find(environ).model_dir}"
        found.append(argument)
    return tuple(found)


def _check_messages(file: str, config: dict, tuning: bool) -> None:
    if not rules.installed(_GOOGLE):
        return
    from google.protobuf import json_format

    if tuning:
        kind = _types("hyperparameter_tuning_job").HyperparameterTuningJob
    else:
        kind = _types("custom_job").CustomJobSpec
    message = kind.pb(kind())
    try:
        json_format.ParseDict(config, message, ignore_unknown_fields=False)
    except json_format.ParseError as error:
        raise UsageError(f"Vertex AI refuses {file}: {error}") from None


def _types(module: str) -> types.ModuleType:
    """Imports one of the modules of google.cloud.aiplatform_v1.types.

    The packages around it import the clients of all services, which takes a
    second. So they are there as what they are found by, and are not run.
    """
    for name in (_GOOGLE, f"{_GOOGLE}.types"):
        if name not in sys.modules:
            spec = importlib.util.find_spec(name)
            sys.modules[name] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{_GOOGLE}.types.{module}")


def _check_pools(file: str, spec: dict) -> None:
    pools = spec.get("workerPoolSpecs", [])
    rules.require(
        1 <= len(pools) <= 2, file, "expected one or two worker pools"
    )
    replicas = [int(pool["replicaCount"]) for pool in pools]
    rules.require(replicas[0] == 1, file, "the first pool is the one chief")
    rules.require(all(replicas), file, "a worker pool has no replicas")
    rules.require(
        str(
            spec.get("baseOutputDirectory", {}).get("outputUriPrefix")
        ).startswith("gs://"),
        file,
        "without baseOutputDirectory in gs:// there is no AIP_MODEL_DIR",
    )
    scheduling = spec.get("scheduling", {})
    rules.require(
        scheduling.get("strategy") in ("STANDARD", "SPOT", "FLEX_START"),
        file,
        f"strategy {scheduling.get('strategy')!r} is none of STANDARD, SPOT "
        "and FLEX_START",
    )
    rules.require(
        len(pools) == 1 or scheduling.get("restartJobOnWorkerRestart") is True,
        file,
        "several workers restart together: restartJobOnWorkerRestart",
    )
    rules.require(
        not scheduling.get("disableRetries"),
        file,
        "disableRetries overrides restartJobOnWorkerRestart",
    )
    for pool in pools:
        container = pool.get("containerSpec")
        package = pool.get("pythonPackageSpec")
        rules.require(
            (container is None) != (package is None),
            file,
            "expected one of containerSpec and pythonPackageSpec",
        )
        machine = pool["machineSpec"]
        rules.require(
            ("acceleratorType" in machine) == ("acceleratorCount" in machine),
            file,
            "acceleratorType and acceleratorCount go together",
        )
        if package:
            module, words = package["pythonModule"], package["args"]
            rules.require(
                all(u.startswith("gs://") for u in package["packageUris"]),
                file,
                "packageUris are gs:// URIs",
            )
        else:
            command, words = container["command"], container["args"]
            module = rules.module_of(command, file)
        given = ["--model_dir=/gcs/given/by/vertex"]
        arguments.check(module, words, given * (module == "trainer.task"))


def _indented(text: str, spaces: int) -> str:
    return textwrap.indent(text, " " * spaces).strip()
