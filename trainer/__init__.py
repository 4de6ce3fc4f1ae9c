"""Records -> a trained, measured, exported classifier."""
