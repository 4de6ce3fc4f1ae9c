"""A search over settings: what is tried, the trials, what they reached."""
