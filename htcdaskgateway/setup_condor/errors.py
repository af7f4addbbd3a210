"""The errors of ``setup_condor``: what happened, and what the user can do."""

from __future__ import annotations

from ..errors import HTCDaskGatewayError


class SetupError(HTCDaskGatewayError):
    """The user's environment could not be made ready for HTCondor; `said` is what the login node or ssh said."""

    def __init__(self, message: str, hint: str = "", said: str = "") -> None:
        self.message = message
        self.hint = hint
        self.said = said.strip()
        super().__init__(message)

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"  | {line}" for line in self.said.splitlines()]
        if self.hint:
            lines.append(f"  next: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.hint, self.said)


class LoginError(SetupError):
    """The login node could not be logged in to."""


class TokenError(SetupError):
    """The login node gave no token."""


class StoreError(SetupError):
    """The token or the configuration could not be written."""


class StoppedError(SetupError):
    """The user stopped it."""


class UnansweredError(SetupError):
    """A question was open, and nobody was there to answer it."""
