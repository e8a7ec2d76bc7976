"""The rows that one writer has written: which count, whether they are whole, and their numbers."""
