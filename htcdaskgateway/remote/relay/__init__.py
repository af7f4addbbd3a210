"""Workers that only dial out: what runs at the scheduler and in the workers, sent there as text."""

from importlib import resources


def parts(how: str) -> tuple[str, ...]:
    """Return which modules a worker has that is to reach others ``"always"`` or ``"auto"`` through the relay."""
    return ("wire", "worker", "auto") if how == "auto" else ("wire", "worker")


def source(*modules: str) -> str:
    """Return the text of these modules, one behind the other, in one file."""
    room = resources.files(__name__)
    return "\n\n".join(room.joinpath(f"{module}.py").read_text(encoding="utf-8") for module in modules)
