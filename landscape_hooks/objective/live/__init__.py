"""The loss as the user wrote it: copied with all that it reads, and tried out by splitting its batches."""
