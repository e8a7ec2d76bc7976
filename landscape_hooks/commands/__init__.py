"""The commands: a family with one interface, a click command each, named as its file."""
