"""Augmentation on the accelerator: what an image gets is a pure function."""
