# shardtune for GPUs: docker build --tag=shardtune:0.1.0 .
#
# On SageMaker's own image, for instance:
#   --build-arg BASE=763104351884.dkr.ecr.REGION.amazonaws.com/tensorflow-training:TAG
# Without GPUs: --build-arg BASE=tensorflow/tensorflow:2.21.0
# With the ImageNet weights inside, for machines without network:
#   --build-arg WEIGHTS=imagenet
# For SageMaker, whose folders are root's: --build-arg USER=root
# For `shardtune serve`: --target=serve, then
#   docker run --publish=127.0.0.1:8501:8501 --volume=$PWD/model:/model IMAGE
# With the model inside: FROM IMAGE, and COPY model /model
# For data_prep on Dataflow: --build-arg EXTRAS=gcs,s3,beam, on any image of
# Python 3.11, as data_prep needs no TensorFlow.
ARG BASE=tensorflow/tensorflow:2.21.0-gpu
FROM ${BASE} AS train

# Options of pip, such as --index-url=https://a.mirror/simple
ARG PIP_OPTIONS=""
ARG EXTRAS=train,gcs,s3
WORKDIR /opt/shardtune

# The libraries in a layer of their own, which a change of the code keeps.
COPY setup.py pyproject.toml README.md LICENSE constraints.txt ./
RUN python -m pip install --no-cache-dir --constraint=constraints.txt \
    ${PIP_OPTIONS} ".[${EXTRAS}]" cloudml-hypertune

COPY data_prep data_prep
COPY trainer trainer
COPY launch launch
COPY shardtune shardtune
RUN python -m pip install --no-cache-dir --no-deps ${PIP_OPTIONS} .

# Keras keeps downloaded weights here, for whatever user the container runs as.
ENV KERAS_HOME=/opt/keras PYTHONUNBUFFERED=1
ARG WEIGHTS=none
RUN mkdir --mode=1777 /opt/keras && \
    if [ "${WEIGHTS}" = imagenet ]; then python -m trainer.weights; fi

WORKDIR /job
# /var/hypertune: where a trial of Vertex AI leaves its figure.
RUN mkdir -p /var/hypertune && chmod 1777 /job /var/hypertune
ARG USER=1000:1000
USER ${USER}

# Exec form: Python is process 1 and gets SIGTERM itself.
ENTRYPOINT ["python"]
CMD ["-m", "trainer.task", "--help"]

# What answers over HTTP; /model is a model directory.
FROM train AS serve
ARG PIP_OPTIONS=""
USER root
WORKDIR /opt/shardtune
RUN python -m pip install --no-cache-dir --constraint=constraints.txt \
    ${PIP_OPTIONS} ".[serve]"
WORKDIR /job
USER 1000:1000
EXPOSE 8501
ENTRYPOINT ["python", "-m", "trainer.serve", "--host=0.0.0.0"]
CMD ["--model_dir=/model"]

# What is built unless --target says otherwise.
FROM train
