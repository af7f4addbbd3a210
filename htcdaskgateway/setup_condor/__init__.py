"""The command ``setup_condor``, one job a module."""

from .command import main

__all__ = ["main"]
