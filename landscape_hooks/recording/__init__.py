"""The hook in the training loop."""
