"""The page that shows what a run reached, and where it fails."""
