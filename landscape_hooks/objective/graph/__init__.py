"""The loss graph: read, checked, rewritten and computed."""
