"""Quote values by the rules of the file they go into.

Whatever a value holds, it stays one value: it can add neither a line nor a command. What cannot be written so is a
`ConfigError`.
"""

from __future__ import annotations

import re
import shlex

from ..errors import ConfigError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
# Words that begin a statement of HTCondor's configuration language rather than an assignment.
_STATEMENTS = {"if", "elif", "else", "endif", "include", "use", "error", "warning"}


def quote_classad(value: object) -> str:
    """Quote `value` as a ClassAd string, for a constraint as for a submit description.

    HTCondor reads both in the *old* syntax: a backslash is itself unless a double quote follows (seen on 23.9 and
    25.14).
    """
    text = str(value)
    if text.endswith("\\"):
        raise ConfigError(f"{text!r} has a backslash at its end, which a ClassAd string cannot hold")
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'


def quote_submit(value: object) -> str:
    """Quote `value` for the right side of a submit command.

    HTCondor's manual, *Submit file macros*: ``$(DOLLAR)`` is a literal dollar sign. ``$$(…)`` is replaced when the
    job is matched, wherever it stands, and a backslash at the end of a line joins it with the next.
    """
    text = str(value)
    for what, wrong in (
        ("a line break", any(character in text for character in "\r\n\0")),
        ("'$$(' or '$$[', which HTCondor replaces when it matches the job", "$$(" in text or "$$[" in text),
        ("'$(DOLLAR)'", "$(dollar" in text.lower()),
        ("a backslash at its end", text.endswith("\\")),
        ("a space at an end", text != text.strip()),
    ):
        if wrong:
            raise ConfigError(f"{text!r} has {what}, which a submit description cannot hold")
    return text.replace("$", "$(DOLLAR)")


def quote_log(path: object) -> str:
    """Quote the path of a job's event log.

    There alone HTCondor takes a backslash for a separator of directories, and several in a row for one.
    """
    if re.search(r"\\[\\/]|/\\", str(path)):
        raise ConfigError(f"{str(path)!r} has a backslash beside a slash or another, which HTCondor would drop")
    return quote_submit(path)


def quote_list_item(value: object) -> str:
    """Quote `value` as one name of a list that commas separate, such as ``transfer_input_files``."""
    if "," in str(value):
        raise ConfigError(f"{value!r} has a comma, which separates the names in a submit description's lists")
    return quote_submit(value)


def quote_shell(value: object) -> str:
    """Quote `value` as one word of a shell script."""
    text = str(value)
    if any(character in text for character in "\r\n\0"):
        raise ConfigError(f"{text!r} has a line break, which a worker's script cannot hold")
    return shlex.quote(text)


def quote_config(name: str, value: object) -> str:
    """Return the line that sets the variable `name` of HTCondor's configuration to `value`, macros and all."""
    text = str(value)
    if not _VARIABLE.fullmatch(name) or name.lower() in _STATEMENTS:
        raise ConfigError(f"{name!r} is no name of a variable of HTCondor's configuration")
    if not text.replace("\t", " ").isprintable() or text.rstrip().endswith("\\"):
        raise ConfigError(f"{name}: {text!r} is not one line of HTCondor's configuration")
    return f"{name} = {text}"
