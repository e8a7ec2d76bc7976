"""The loss on a grid, and what is said of it."""
