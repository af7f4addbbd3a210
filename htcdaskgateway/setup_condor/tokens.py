"""HTCondor's tokens: recognise one, read what it says, list a directory of them. Nothing here shows one."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jwt

from ..plain import printable

_RUN = re.compile(r"[A-Za-z0-9_.-]+")
_JWT = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}")
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
    """Return the token that `text` is, or None; its signature is the schedd's to check."""
    if not _JWT.fullmatch(text):
        return None
    try:
        header = jwt.get_unverified_header(text)
        payload = jwt.decode(text, options={"verify_signature": False})
    except (jwt.InvalidTokenError, RecursionError):  # as JSON of a thousand brackets is
        return None
    if "alg" not in header:
        return None
    issuer, identity = payload.get("iss"), payload.get("sub")
    if not isinstance(issuer, str) or not isinstance(identity, str):
        return None
    scope = payload.get("scope", "")
    scopes = scope.split() if isinstance(scope, str) else [str(word) for word in scope or ()]
    return Token(
        text=text,
        issuer=printable(issuer),
        identity=printable(identity),
        scopes=tuple(printable(word) for word in scopes),
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


def _time(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e11:
        return float(value)
    return None


@dataclass(frozen=True)
class TokenFile:
    """A file of a token directory: its tokens, or why it cannot be read."""

    path: Path
    tokens: tuple[Token, ...] = ()
    open_to_others: bool = False
    problem: str = ""


def directory(path: Path) -> list[TokenFile]:
    """Return the files of a token directory in HTCondor's order: by name."""
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
