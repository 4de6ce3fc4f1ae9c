"""Jobs of every target, for tests of what is rendered of them."""

import itertools

from launch.groups import KINDS

VERTEX = {
    "target": "vertex",
    "image": "us-central1-docker.pkg.dev/project/repository/shardtune:0.1.0",
    "output_uri": "gs://bucket/run",
}
SAGEMAKER = {
    "target": "sagemaker",
    "region": "us-east-1",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/shardtune:0.1.0",
    "role_arn": "arn:aws:iam::123456789012:role/train",
    "output_uri": "s3://bucket/out",
}
SKYPILOT = {"target": "skypilot", "image": "registry.io/p/shardtune:0.1.0"}
KUBERNETES = {"target": "kubernetes", "volumes": "claim:/mnt"}
# What each target needs, and words of the trainer that suit it.
LEAST = {
    "local": ({"target": "local"}, ["--data_dir=data", "--model_dir=model"]),
    "docker": ({"target": "docker"}, ["--data_dir=data", "--model_dir=model"]),
    "slurm": ({"target": "slurm"}, ["--data_dir=data", "--model_dir=model"]),
    "kubernetes": (
        KUBERNETES,
        ["--data_dir=/mnt/data", "--model_dir=/mnt/model"],
    ),
    "vertex": (VERTEX, ["--data_dir=gs://bucket/data"]),
    "sagemaker": (SAGEMAKER, ["--data_dir=s3://bucket/data"]),
    "skypilot": (
        SKYPILOT,
        ["--data_dir=s3://bucket/data", "--model_dir=s3://bucket/model"],
    ),
}
STORE = ["--data_dir=s3://bucket/data", "--model_dir=s3://bucket/model"]
GRID = "dropout=0,0.5 batch_size=16,32"
TUNE = "dropout=0:0.5 finetune_learning_rate=1e-5:1e-3:log frozen_epochs=0:512"
# What data_prep is given, by what can read and write it.
PREPARE = {
    "vertex": ["--source=gs://b/photos", "--output_dir=gs://b/data"],
    "sagemaker": ["--source=csv:s3://b/t.csv", "--output_dir=s3://b/data"],
    "skypilot": ["--source=s3://b/photos", "--output_dir=s3://b/data"],
}


def jobs():
    """Yields settings of a job, with the words of its command line."""
    for target, (least, words) in LEAST.items():
        for more in _variants(target):
            yield {**least, **more}, words
            if target not in ("vertex", "sagemaker"):
                if not (target == "local" and more.get("workers", 1) > 1):
                    yield {**least, **more}, STORE
        prepared = PREPARE.get(
            target, ["--source=/mnt/photos", "--output_dir=/mnt/data"]
        )
        yield {**least, "job": "data_prep"}, prepared
    yield {**KUBERNETES, "job": "serve"}, ["--model_dir=/mnt/model"]


def _variants(target):
    yield {}
    yield {"name": "a-1", "output_dir": "/some where"}
    if target != "docker":
        yield {"grid": GRID}
    for workers, gpus in itertools.product((1, 2, 4), (0, 1, 8)):
        if target == "docker" and workers == 1:
            yield {"gpus": gpus, "grace_seconds": 45}
        elif target == "local":
            yield {"workers": workers, "restarts": gpus, "setup": "module load"}
        elif target == "slurm":
            yield {
                "workers": workers,
                "gpus": gpus,
                "slurm_options": "--partition=gpu --account=me",
            }
        elif target == "kubernetes":
            for kind in KINDS:
                yield {
                    "kind": kind,
                    "workers": workers,
                    "gpus": gpus,
                    "service_account": "trainer" * (gpus > 0),
                }
        elif target == "vertex":
            yield {"workers": workers, "gpus": gpus, "tune": TUNE}
            yield {
                "workers": workers,
                "gpus": gpus,
                "spot": True,
                "package_uri": "gs://bucket/shardtune-0.1.0.tar.gz"
                * (gpus > 1),
            }
        elif target == "sagemaker":
            yield {"workers": workers, "spot": gpus > 0, "time_limit": 30}
