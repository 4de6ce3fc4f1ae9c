"""Features of the frozen base, kept on disk, and heads fitted on them."""
