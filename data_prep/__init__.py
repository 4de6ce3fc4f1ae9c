"""Labelled images -> split, sharded TFRecords and a manifest. Imports no TensorFlow."""
