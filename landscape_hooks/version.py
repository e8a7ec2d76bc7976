"""The version, in one place: the packaging metadata and every stored surface read it from here."""

__version__ = "0.1.0"
