"""Starts the same `python -m trainer.task` elsewhere. Imports no TensorFlow."""
