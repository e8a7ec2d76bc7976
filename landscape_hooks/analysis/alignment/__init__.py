"""Two runs beside each other: the permutation that brings one network nearest to another, and the barrier between."""
