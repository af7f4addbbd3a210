"""Workers that only dial out: what runs at the scheduler and in the workers, sent there as text."""

from importlib import resources


def source(*parts: str) -> str:
    """Return the text of these modules, one behind the other, in one file."""
    room = resources.files(__name__)
    return "\n\n".join(room.joinpath(f"{part}.py").read_text(encoding="utf-8") for part in parts)


def worker_source(how: str) -> str:
    """Return the text for a worker that is to reach others ``"always"`` or ``"auto"`` through the relay."""
    return source("wire", "worker", *(["auto"] if how == "auto" else []))
