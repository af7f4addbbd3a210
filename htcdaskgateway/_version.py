"""The version, written once."""

__version__ = "2.0.0"
