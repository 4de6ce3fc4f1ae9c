"""A trained model at work: measured, exported, asked."""
