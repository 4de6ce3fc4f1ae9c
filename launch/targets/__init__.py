"""One module per platform: `render` makes a job's files, `check` reads them."""
