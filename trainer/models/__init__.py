"""The network: bases, weights, head."""
