"""HTCondor's tokens: recognise one, read what it says, list a directory of them. Nothing here shows one."""

from __future__ import annotations

import base64
import binascii
import json
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_RUN = re.compile(r"[A-Za-z0-9_.-]+")
# The names that HTCondor skips in its directories (LOCAL_CONFIG_DIR_EXCLUDE_REGEXP).
_SKIPPED = re.compile(r"(\..*)|(.*~)|(#.*)|(.*\.rpmsave)|(.*\.rpmnew)")


@dataclass(frozen=True)
class Token:
    """A JWT and what its payload says."""

    text: str = field(repr=False)
    issuer: str
    identity: str
    scopes: tuple[str, ...]
    issued: float | None
    expires: float | None

    def expired(self, now: float | None = None) -> bool:
        """Tell whether the token's time is over."""
        return self.expires is not None and self.expires <= (time.time() if now is None else now)

    def fresh(self, now: float | None = None) -> bool:
        """Tell whether the token has more than a day, or half of a shorter life, before it."""
        if self.expires is None:
            return True
        moment = time.time() if now is None else now
        life = self.expires - (self.issued if self.issued is not None else moment)
        return self.expires - moment > min(86400.0, life / 2)

    def summary(self) -> str:
        """Return issuer, identity, scopes and expiry in one line, for people."""
        scopes = " ".join(self.scopes) or "all that the identity may"
        return f"{self.identity}, issued by {self.issuer}, scopes: {scopes}, {self.expiry()}"

    def expiry(self) -> str:
        """Return when the token expires, for people."""
        if self.expires is None:
            return "without an expiry"
        word = "expired" if self.expired() else "expires"
        return f"{word} {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.expires))}"


def parse(text: str) -> Token | None:
    """Return the token that `text` is, or None: three base64url parts, a header and a payload in JSON."""
    parts = text.split(".")
    if len(parts) != 3:
        return None
    header, payload = _json_part(parts[0]), _json_part(parts[1])
    if header is None or "alg" not in header or payload is None or not _decode(parts[2]):
        return None
    issuer, identity = payload.get("iss"), payload.get("sub")
    if not isinstance(issuer, str) or not isinstance(identity, str):
        return None
    scope = payload.get("scope", "")
    scopes = scope.split() if isinstance(scope, str) else [str(word) for word in scope or ()]
    return Token(
        text=text,
        issuer=_one_line(issuer),
        identity=_one_line(identity),
        scopes=tuple(_one_line(word) for word in scopes),
        issued=_time(payload.get("iat")),
        expires=_time(payload.get("exp")),
    )


def find(text: str) -> Token | None:
    """Return the last token in `text`, whatever is around it, or None."""
    found = None
    for run in _RUN.findall(text):
        parts = run.split(".")
        for first in range(len(parts) - 2):
            for header in _headers(parts[first]):
                found = parse(".".join((header, parts[first + 1], parts[first + 2]))) or found
    return found


def _headers(part: str) -> Iterator[str]:
    yield part
    # A word glued to the token, as in `token-eyJ...`: a JSON object begins with `{"`, which is eyJ.
    start = part.find("eyJ")
    if start > 0:
        yield part[start:]


def _decode(part: str) -> bytes:
    """Return the bytes of a base64url part, or none if it is no such part."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", part):
        return b""
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        return b""


def _json_part(part: str) -> dict[str, Any] | None:
    try:
        value = json.loads(_decode(part))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _time(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e11:
        return float(value)
    return None


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@dataclass(frozen=True)
class TokenFile:
    """A file of a token directory: its tokens, or why it cannot be read."""

    path: Path
    tokens: tuple[Token, ...] = ()
    open_to_others: bool = False
    problem: str = ""


def directory(path: Path) -> list[TokenFile]:
    """Return the files of a token directory in HTCondor's order: by name.

    Raises
    ------
    OSError
        The directory cannot be read.
    """
    names = sorted(entry.name for entry in path.iterdir() if not _SKIPPED.fullmatch(entry.name))
    return [_token_file(path / name) for name in names if (path / name).is_file()]


def _token_file(path: Path) -> TokenFile:
    try:
        open_to_others = bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return TokenFile(path, problem=f"cannot be read: {error.strerror}")
    lines = (line.strip() for line in text.splitlines())
    found = [parse(line) for line in lines if line and not line.startswith("#")]
    tokens = tuple(token for token in found if token is not None)
    return TokenFile(path, tokens, open_to_others, "" if tokens else "holds no token")
