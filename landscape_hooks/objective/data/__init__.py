"""The batches of the user's data: taken without touching what the training uses, and taken apart into tensors."""
