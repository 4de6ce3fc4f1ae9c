"""All images of a source together: findings, duplicates, splits."""
