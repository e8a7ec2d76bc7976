"""The recipe: from a run to a surface."""
