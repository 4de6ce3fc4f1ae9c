"""Augmentation on the accelerator, by random numbers that repeat."""
