"""Devices: what computing on one takes beside torch's own operations, which are the same everywhere."""
