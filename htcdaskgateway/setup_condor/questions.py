"""What ssh and login nodes ask: tell the kind of a question by its last line and the terminal's echo."""

from __future__ import annotations

import enum
import re


class Kind(enum.Enum):
    """The kind of a question."""

    HOST_KEY = "host key"
    PASSPHRASE = "passphrase"  # noqa: S105 - a kind's name
    NEW_PASSWORD = "new password"  # noqa: S105 - a kind's name
    SECOND_FACTOR = "second factor"
    PASSWORD = "password"  # noqa: S105 - a kind's name
    UNKNOWN = "question"


# ssh puts who is asked before the question; a host may be called new.example.edu.
_WHO = re.compile(r"^\s*(?:\(\S+@\S+\)\s*|\S+@\S+'s\s+)")
_ENDS = re.compile(r"[:?>\])]\s*$")
_KINDS = (
    (Kind.HOST_KEY, re.compile(r"\(yes/no(?:/\[fingerprint\])?\)\?|type 'yes', 'no'")),
    (Kind.PASSPHRASE, re.compile(r"passphrase for", re.I)),
    (
        Kind.SECOND_FACTOR,
        re.compile(r"passcode|verification code|one[- ]?time|\botp\b|token code|authenticator|two-factor", re.I),
    ),
    (Kind.NEW_PASSWORD, re.compile(r"\b(?:new|retype|re-?enter|repeat|confirm|current|old)\b.*password", re.I)),
    (Kind.PASSWORD, re.compile(r"password", re.I)),
)
# Answered only while echo is off, which ssh alone can do: no text that the login node prints gets a password.
_HIDDEN = (Kind.PASSPHRASE, Kind.NEW_PASSWORD, Kind.PASSWORD)
_OPTION = re.compile(r"^\s*(\d{1,2})[.)]\s+(\S.*?)\s*$", re.M)
_FACTOR = {"push": r"\bpush\b", "phone": r"\bphone\b|\bcall\b", "sms": r"\bsms\b|\btext\b"}


def recognise(line: str, echo: bool) -> Kind | None:
    """Return the kind of question that the unfinished `line` asks; None if it asks none."""
    if not line.strip() or (echo and not _ENDS.search(line)):
        return None
    question = _WHO.sub("", line)
    for kind, pattern in _KINDS:
        if pattern.search(question) and (kind not in _HIDDEN or not echo):
            return kind
    return Kind.UNKNOWN


def wants_hiding(line: str) -> bool:
    """Tell whether the answer to `line` should not be seen, whatever the terminal's echo."""
    return re.search(r"passw|passphrase|\bpin\b", line, re.I) is not None


def options(text: str) -> dict[str, str]:
    """Return the numbered options that a second factor lists."""
    return dict(_OPTION.findall(text))


def choose(factor: str, listed: dict[str, str]) -> str | None:
    """Return the number of the listed option that is meant by `factor`, or None."""
    if factor in listed:
        return factor
    pattern = _FACTOR.get(factor)
    if pattern is None:
        return None
    return next((number for number, text in listed.items() if re.search(pattern, text, re.I)), None)
