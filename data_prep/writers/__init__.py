"""From the catalogue to the files of a data set."""
