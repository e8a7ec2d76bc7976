"""The recorded snapshots, read and written."""
