"""Commands with a mistake in them: each is refused before anything is queued.

By what a plain install knows: no schemas of the platforms. What passes all the
same: a --time_limit that Vertex AI may not grant (its limit depends on the
project), an --image in no registry (a cluster's nodes may have it, and submit
says so), and what only the platform can know: names of partitions, claims,
buckets, roles and images that are not there.
"""

import shlex

import pytest
from absl import flags

from data_prep.runtime import setting_flags
from data_prep.runtime.errors import UsageError
from launch import submit
from launch.job import Job
from launch.targets import schemas

PREFIXES = {
    "V": "--target=vertex --output_uri=gs://b/o "
    "--image=us-central1-docker.pkg.dev/p/r/s:1",
    "S": "--target=sagemaker --region=us-east-1 --output_uri=s3://b/o "
    "--image=123456789012.dkr.ecr.us-east-1.amazonaws.com/s:1 "
    "--role_arn=arn:aws:iam::123456789012:role/train",
    "K": "--target=kubernetes --image=r.io/p/s:1 --volumes=claim:/mnt",
    "KW": "-- --data_dir=/mnt/data --model_dir=/mnt/model",
    "L": "-- --data_dir=data --model_dir=model",
}
MISTAKES = r"""
{V} -- --data_dir=/data
{V} -- --data_dir=data
{V} -- --data_dir=s3://b/data
{V} -- --data_dir=/gcs/b/data
{V} -- --data_dir=gs://b/d --model_dir=/model
{V} -- --data_dir=gs://b/d --model_dir=s3://b/model
{V} -- --data_dir=gs://b/d --weights=/home/me/w.h5
{V} -- --data_dir=gs://b/d --weights=w.h5
{V} -- --data_dir=gs://b/d --feature_dir=/f
{V} -- --data_dir=gs://
{V} -- --data_dir=gs:///d
{V} --workers=3 --gpus=4 --machine_type=g2-standard-48 -- --data_dir=gs://b/d --batch_size=32
{V} --gpus=4 --machine_type=g2-standard-8 -- --data_dir=gs://b/d
{V} --gpus=0 --machine_type=g2-standard-8 -- --data_dir=gs://b/d
{V} --gpus=1 --machine_type=n2-standard-8 -- --data_dir=gs://b/d
{V} --gpus=1 --machine_type=a2-highgpu-8g --accelerator=NVIDIA_TESLA_A100 -- --data_dir=gs://b/d
{V} --gpus=8 --machine_type=a2-highgpu-8g --accelerator=NVIDIA_L4 -- --data_dir=gs://b/d
{V} --machine_type=ml.g5.xlarge -- --data_dir=gs://b/d
{V} --machine_type=G2-STANDARD-8 -- --data_dir=gs://b/d
{V} --region=us-central -- --data_dir=gs://b/d
{V} --region=us-east-1 -- --data_dir=gs://b/d
{V} --output_uri=s3://b/o -- --data_dir=gs://b/d
{V} --output_uri=gs:// -- --data_dir=gs://b/d
{V} --output_uri="gs://B/r #x" -- --data_dir=gs://b/d
{V} --tune="dropout=0:0.5:log" -- --data_dir=gs://b/d
{V} --tune="dropout=0.1:0.5" --trials=3 --parallel_trials=4 -- --data_dir=gs://b/d
{V} --tune="model_dir=0:1" -- --data_dir=gs://b/d
{V} --tune="dropout=0:0.5 dropout=0.1:0.2" -- --data_dir=gs://b/d
{V} --tune="dropout=0:0.5" -- --data_dir=gs://b/d --dropout=0.3
{V} --trials=3 -- --data_dir=gs://b/d
{V} --parallel_trials=2 -- --data_dir=gs://b/d
{V} --accelerator=NVIDIA_L5 -- --data_dir=gs://b/d
{V} --gpus=0 --accelerator=NVIDIA_TESLA_T4 -- --data_dir=gs://b/d
{V} --service_account=me -- --data_dir=gs://b/d
{V} --service_account="a@b: x" -- --data_dir=gs://b/d
{V} --package_uri=gs://b/dist -- --data_dir=gs://b/d
{V} --cpus=4 -- --data_dir=gs://b/d
{S} -- --data_dir=gs://b/d
{S} -- --data_dir=/d
{S} -- --data_dir=s3://b/d --model_dir=gs://b/m
{S} -- --data_dir=s3://b/d --model_dir=/m
{S} -- --data_dir=s3://b/d --weights=w.h5
{S} -- --data_dir=s3://b/d --weights=s3://b/w.h5
{S} -- --data_dir=s3://b/d --feature_dir=/f
{S} -- --data_dir=s3://b/d --cache_dir=s3://b/c
{S} --region=us-central1 -- --data_dir=s3://b/d
{S} --region=eu-west-1 -- --data_dir=s3://b/d
{S} --machine_type=g5.xlarge -- --data_dir=s3://b/d
{S} --machine_type=ml.g5.xl -- --data_dir=s3://b/d
{S} --machine_type=g2-standard-8 -- --data_dir=s3://b/d
{S} --gpus=0 -- --data_dir=s3://b/d
{S} --role_arn=train -- --data_dir=s3://b/d
{S} --role_arn=arn:aws:iam::12:role/train -- --data_dir=s3://b/d
{S} --role_arn=arn:aws:iam::123456789012:user/me -- --data_dir=s3://b/d
{S} --output_uri=/o -- --data_dir=s3://b/d
{S} --restarts=40 -- --data_dir=s3://b/d
{S} --time_limit=100000 -- --data_dir=s3://b/d
{S} --service_account=x -- --data_dir=s3://b/d
{S} --image=s:1 -- --data_dir=s3://b/d
{K} -- --data_dir=/data --model_dir=/mnt/m
{K} -- --data_dir=/mnt/d --model_dir=model
{K} -- --data_dir=/mnt/../d --model_dir=/mnt/m
{K} -- --data_dir=/mnt/d --model_dir=/mnt/m --weights=/w.h5
{K} --namespace="a: b" {KW}
{K} --namespace=A_b {KW}
{K} --service_account="x: y" {KW}
{K} --service_account=A_b {KW}
{K} --volumes=claim:/mnt,claim:/mnt/ {KW}
{K} --volumes=claim:/mnt,other:/mnt {KW}
{K} --volumes=claim:/mnt:ro {KW}
{K} --volumes=claim:/mnt/../etc {KW}
{K} --volumes=Claim_A:/mnt {KW}
{K} --volumes=/host:/mnt {KW}
{K} --volumes=claim:/dev/shm {KW}
{K} --volumes=claim:/ -- --data_dir=/d --model_dir=/m
{K} --workers=3 --gpus=2 {KW} --batch_size=32
{K} --workers=2 {KW} --strategy=one
{K} --workers=2 {KW} --strategy=mirrored
{K} {KW} --virtual_devices=4
{K} --gpus=2 {KW} --virtual_devices=4
{K} --workers=2 --grid=seed=1,2 {KW}
{K} --grid="model_dir=/mnt/a,/mnt/b" {KW}
{K} --grid="seed=1,2 seed=3,4" {KW}
{K} --grid="seed=1,1" {KW}
{K} --grid="sead=1,2" {KW}
{K} --grid="seed=1;2" {KW}
{K} --kind=jobset --grid=seed=1,2 {KW}
{K} --grace_seconds=5 {KW}
{K} --slurm_options=--x {KW}
{K} --runs_at_once=3 {KW}
--target=docker --volumes=/host -- --data_dir=data --model_dir=model
--target=docker --volumes=host:/x -- --data_dir=data --model_dir=model
--target=docker --volumes=/h:/x,/i:/x -- --data_dir=data --model_dir=model
--target=docker --volumes=/h:/x/../y -- --data_dir=data --model_dir=model
--target=docker -- --data_dir=da:ta --model_dir=model
--target=docker -- --data_dir=data --model_dir=/
--target=docker -- --data_dir=../data --model_dir=mo:del
--target=docker --image="a b" {L}
--target=docker --image=Shardtune:1 {L}
--target=docker --build_options=--no-cache {L}
--target=docker --build --build_options="--label='a" {L}
--target=slurm --build {L}
--target=docker --workers=2 {L}
--target=docker --gpus=2 -- --data_dir=data --model_dir=model --batch_size=33
--target=local --setup="echo 'x" {L}
--target=local --setup="if true; then" {L}
--target=local --python=/absent/python {L}
--target=local --workers=2 -- --data_dir=gs://b/d --model_dir=model
--target=local --workers=3 -- --data_dir=data --model_dir=model --batch_size=32
--target=local --workers=2 -- --data_dir=data --model_dir=model --strategy=one
--target=local --gpus=2 {L}
--target=local --grid=seed=1,2 --workers=2 -- --data_dir=gs://b/d --model_dir=gs://b/m
--target=local --flag_files=absent.flags {L}
--target=slurm --slurm_options="--signal=B:USR1@10" {L}
--target=slurm --slurm_options="--partition gpu" {L}
--target=slurm --slurm_options="partition=gpu" {L}
--target=slurm --slurm_options="--comment='a" {L}
--target=slurm --grace_seconds=7200 --time_limit=60 {L}
--target=slurm --container=docker:x {L}
--target=slurm --image=x {L}
--target=slurm --workers=2 --gpus=4 -- --data_dir=data --model_dir=model --batch_size=12
--target=slurm --workers=2 -- --data_dir=data --model_dir=model --strategy=mirrored
--target=slurm -- --data_dir=data --model_dir=model --lr=3
--target=slurm -- --data_dir=data
--target=slurm -- --data_dir=data --model_dir=gs://
--target=slurm --time_limit=0 {L}
--target=slurm --memory_gb=0 {L}
--target=slurm --cpus=0 {L}
--target=slurm --workers=0 {L}
--target=slurm --name=My_Job {L}
--target=slurm --name= {L}
--target=slurm --job=data_prep --workers=2 -- --source=a --output_dir=b
--target=slurm --job=data_prep --grid=seed=1,2 -- --source=a --output_dir=b
--target=slurm --job=data_prep -- --data_dir=a --model_dir=b
--target=vertx {L}
--target=slurm --grid="seed" {L}
--target=slurm --grid="seed=" {L}
--target=slurm --restarts=-1 {L}
{V} --image=europe-west4-docker.pkg.dev/p/r/s:1 -- --data_dir=gs://b/d
""".strip().splitlines()


def render(line):
    """Renders the job of a command line."""
    words = shlex.split(line.format(**PREFIXES))
    end = words.index("--")
    values = flags.FlagValues()
    setting_flags.define_flags(Job, values)
    values(["submit", *words[:end]])
    given = {
        one.name: values[one.name].value
        for one in Job.settings()
        if values[one.name].present
    }
    return submit.render(Job(**given), words[end + 1 :])


@pytest.fixture(autouse=True)
def plain_install(monkeypatch):
    """Without the packages that know the platforms' schemas."""
    monkeypatch.setattr(schemas, "_is_installed", lambda _: False)


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_refused(line):
    with pytest.raises((UsageError, flags.Error)) as caught:
        render(line)
    assert len(str(caught.value)) > 30  # it says what is wrong


def test_the_table_is_long_enough():
    assert len(set(MISTAKES)) == len(MISTAKES) >= 130


@pytest.mark.parametrize(
    "line",
    [
        "{V} -- --data_dir=gs://b/data",
        "{V} --gpus=4 -- --data_dir=gs://b/data",
        "{V} --gpus=0 -- --data_dir=gs://b/data",
        "{V} --gpus=4 --accelerator=NVIDIA_TESLA_T4 -- --data_dir=gs://b/data",
        "{V} --gpus=8 --accelerator=NVIDIA_H100_80GB -- --data_dir=gs://b/d",
        "{V} --tune=dropout=0:0.5 -- --data_dir=gs://b/data",
        "{S} -- --data_dir=s3://b/data --cache_dir=/tmp/cache",
        "{S} --machine_type=ml.p4d.24xlarge -- --data_dir=s3://b/data",
        "{K} {KW}",
        "{K} --workers=4 --gpus=8 {KW}",
        "{K} -- --data_dir=s3://b/data --model_dir=gs://b/model",
        "--target=docker -- --data_dir=../data --model_dir=/model",
        "--target=slurm --workers=2 --gpus=4 {L}",
        "--target=slurm --gpus=0 {L} --virtual_devices=2",
        "--target=local --workers=2 {L}",
    ],
)
def test_a_sound_command_is_rendered(line):
    """The control."""
    assert render(line).files
