"""Checkpoints that others saved, read as names and tensors. No file of them runs code."""
