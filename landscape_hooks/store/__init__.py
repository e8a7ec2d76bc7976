"""A run on a disk: the format, and what is in doubt about what was read."""
