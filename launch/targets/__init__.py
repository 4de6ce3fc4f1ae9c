"""One module per platform, whose `render` makes a job's files and commands."""
