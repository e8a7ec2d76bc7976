"""The replay: one scene, drawn in a window or into a file. This family imports no torch."""
