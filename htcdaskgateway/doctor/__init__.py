"""The question "why does it not work here?": all that a cluster needs, a line each."""
