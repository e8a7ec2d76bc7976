"""How a plane gets its two directions: a family with one interface."""
