"""Render the templates; quote values by the rules of the file they go into.

``submit`` quotes for a submit description, ``sh`` for a shell script, ``classad`` for a ClassAd expression in
either. Whatever a value holds, it stays one value: it can add neither a line nor a command.
"""

from __future__ import annotations

import re
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

from . import config
from .condor import quote_classad
from .errors import ConfigError, TemplateError


def _own() -> Any:
    """Return the directory of the package's own templates."""
    package = Path(str(resources.files("htcdaskgateway")))
    # In a checkout they lie beside the package, whichever other one is installed; else they are in it.
    beside = package.parent / "templates"
    if not (package / "templates").is_dir() and (beside / "worker.sub.j2").is_file():
        return beside
    return resources.files("htcdaskgateway.templates")


def quote_submit(value: object) -> str:
    """Quote `value` for the right side of a submit command.

    HTCondor's manual, *Submit file macros*: ``$(DOLLAR)`` is a literal dollar sign. ``$$(…)`` is replaced when the
    job is matched, wherever it stands, and a backslash at the end of a line joins it with the next.

    Raises
    ------
    ConfigError
        The value cannot be written there as it is.
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

    Raises
    ------
    ConfigError
        The path cannot be written there as it is.
    """
    if re.search(r"\\[\\/]|/\\", str(path)):
        raise ConfigError(f"{str(path)!r} has a backslash beside a slash or another, which HTCondor would drop")
    return quote_submit(path)


def quote_list_item(value: object) -> str:
    """Quote `value` as one name of a list that commas separate, such as ``transfer_input_files``.

    Raises
    ------
    ConfigError
        The value cannot be written there as it is.
    """
    if "," in str(value):
        raise ConfigError(f"{value!r} has a comma, which separates the names in a submit description's lists")
    return quote_submit(value)


def quote_shell(value: object) -> str:
    """Quote `value` as one word of a shell script.

    Raises
    ------
    ConfigError
        It has a line break or a NUL.
    """
    text = str(value)
    if any(character in text for character in "\r\n\0"):
        raise ConfigError(f"{text!r} has a line break, which a worker's script cannot hold")
    return shlex.quote(text)


def render(name: str, **values: Any) -> str:
    """Render the template `name`.

    A file of that name in the directory ``htcdaskgateway.template-directory`` goes before the package's own.

    Raises
    ------
    TemplateError
        There is no such template, it has a syntax error, or it uses a value that does not exist.
    ConfigError
        A value cannot be written where the template puts it.
    """
    import jinja2

    directory = config.get("template-directory")
    if directory and not Path(directory).expanduser().is_dir():
        raise TemplateError(f"htcdaskgateway.template-directory={str(directory)!r} is not a directory")

    def load(wanted: str) -> tuple[str, str, None] | None:
        places = [Path(directory).expanduser()] if directory else []
        for place in (*places, _own()):
            file = place / wanted
            if file.is_file():
                return file.read_text(encoding="utf-8"), str(file), None
        return None

    # Not HTML, so nothing is escaped by itself; the filters below quote.
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )
    environment.filters.update(
        submit=quote_submit,
        item=quote_list_item,
        log=quote_log,
        sh=quote_shell,
        classad=quote_classad,
    )
    try:
        return environment.get_template(name).render(**values)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{error.filename or name}, line {error.lineno}: {error.message}") from error
    except jinja2.TemplateNotFound as error:
        raise TemplateError(f"there is no template {error.name!r}") from error
    except jinja2.TemplateError as error:
        raise TemplateError(f"template {name}: {error.message}") from error
    except ConfigError:
        raise
    except Exception as error:
        # What the expressions of a site's template raise is of any kind.
        raise TemplateError(f"template {name}: {type(error).__name__}: {error}") from error
