"""The loss over fixed samples, as data."""
