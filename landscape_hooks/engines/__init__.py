"""Where the points of a grid are evaluated: a family with one interface."""
