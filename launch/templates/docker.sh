#!/bin/bash
# $name in a container of this machine. The image is built once, in the
# checkout:
#   docker build --tag=$image .
# Stop: docker stop $name, which waits for the state to be saved. Resume: run
# this file again.
set -u
$folders
# --shm-size: what NCCL shares between GPUs. --user: files belong to you.
exec docker run --rm --name=$name \
  --stop-timeout=$grace --shm-size=8g --ulimit=memlock=-1 \
  --user="$$(id -u):$$(id -g)" \
  $options \
  $image \
  $line
