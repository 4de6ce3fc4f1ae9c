"""Where the work on images is done: local processes, or Apache Beam."""
