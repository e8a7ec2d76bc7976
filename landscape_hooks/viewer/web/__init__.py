"""The replay in a browser: one file, a cell of a notebook, or a page of a server on this machine."""
