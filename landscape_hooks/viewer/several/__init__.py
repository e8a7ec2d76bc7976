"""Several surfaces in one picture."""
