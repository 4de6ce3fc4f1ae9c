"""The frozen base run once per image, and classifiers fitted on what it gives."""
