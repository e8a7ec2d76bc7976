"""A run from checkpoints of a training that is over."""
