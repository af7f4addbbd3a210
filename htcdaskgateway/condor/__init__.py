"""HTCondor, by its command line."""

from .schedd import Condor

__all__ = ["Condor"]
