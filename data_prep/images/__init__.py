"""One image file: what is wrong with it, what it looks like, how it is stored."""
