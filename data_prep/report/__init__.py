"""What the audit found, as a page for people."""
