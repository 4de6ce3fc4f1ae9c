"""What must hold of a job of Vertex AI, which Google's messages do not say."""

from rules import module_of
from rules import require

from launch import arguments


def check(file, config):
    """Refuses what Vertex AI would refuse, or take and not do.

    Args:
        file: Its name.
        config: Of a CustomJob, or of a HyperparameterTuningJob.
    """
    spec = config.get("trialJobSpec", config)
    pools = spec.get("workerPoolSpecs", [])
    require(1 <= len(pools) <= 2, file, "expected one or two worker pools")
    replicas = [int(pool["replicaCount"]) for pool in pools]
    require(replicas[0] == 1, file, "the first pool is the one chief")
    require(all(replicas), file, "a worker pool has no replicas")
    require(
        str(
            spec.get("baseOutputDirectory", {}).get("outputUriPrefix")
        ).startswith("gs://"),
        file,
        "without baseOutputDirectory in gs:// there is no AIP_MODEL_DIR",
    )
    scheduling = spec.get("scheduling", {})
    require(
        scheduling.get("strategy") in ("STANDARD", "SPOT", "FLEX_START"),
        file,
        f"strategy {scheduling.get('strategy')!r} is none of STANDARD, SPOT "
        "and FLEX_START",
    )
    require(
        len(pools) == 1 or scheduling.get("restartJobOnWorkerRestart") is True,
        file,
        "several workers restart together: restartJobOnWorkerRestart",
    )
    require(
        not scheduling.get("disableRetries"),
        file,
        "disableRetries overrides restartJobOnWorkerRestart",
    )
    for pool in pools:
        container = pool.get("containerSpec")
        package = pool.get("pythonPackageSpec")
        require(
            (container is None) != (package is None),
            file,
            "expected one of containerSpec and pythonPackageSpec",
        )
        machine = pool["machineSpec"]
        require(
            ("acceleratorType" in machine) == ("acceleratorCount" in machine),
            file,
            "acceleratorType and acceleratorCount go together",
        )
        if package:
            module, words = package["pythonModule"], package["args"]
            require(
                all(u.startswith("gs://") for u in package["packageUris"]),
                file,
                "packageUris are gs:// URIs",
            )
        else:
            command, words = container["command"], container["args"]
            module = module_of(command, file)
        if module == "launch.staged":
            require(words[0] == "--", file, "the trainer's flags follow --")
            module, words = "trainer.task", words[1:]
        given = ["--model_dir=gs://given/by/vertex"]
        arguments.parse(module, words, given * (module == "trainer.task"))
