"""Keep secrets out of everything that is shown, logged or raised."""

from __future__ import annotations

import re

from ..plain import plain

# What begins like the header of a JWT, whole or cut short.
_TOKEN = re.compile(r"ey[JA][A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*")
BLANK = "********"


class Secret:
    """A text that shows itself only to who asks for it by name."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return f"Secret({BLANK})"

    def __bool__(self) -> bool:
        return bool(self._text)

    def reveal(self) -> str:
        """Return the secret."""
        return self._text


class Redactor:
    """Blanks the secrets it was told of, and every token, in a text."""

    def __init__(self) -> None:
        self._secrets: list[Secret] = []

    def __repr__(self) -> str:
        return f"Redactor<{len(self._secrets)} secrets>"

    def add(self, secret: Secret) -> None:
        """Blank `secret` from now on."""
        if secret:
            self._secrets.append(secret)

    def __call__(self, text: str) -> str:
        """Return `text` as it may be shown."""
        shown = plain(text)
        # The longest first: one secret may be the beginning of another.
        for secret in sorted(self._secrets, key=lambda secret: -len(secret.reveal())):
            shown = shown.replace(secret.reveal(), BLANK)
        return _TOKEN.sub(BLANK, shown)
