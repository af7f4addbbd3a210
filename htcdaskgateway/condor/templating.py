"""Render the templates of the job, its script and HTCondor's configuration.

``submit`` quotes for a submit description, ``sh`` for a shell script, ``classad`` for a ClassAd expression in
either.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from .. import config
from ..errors import ConfigError, TemplateError
from ..sites.paths import expand
from .quoting import quote_classad, quote_list_item, quote_log, quote_shell, quote_submit


def _own() -> Any:
    """Return the directory of the package's own templates."""
    package = Path(str(resources.files("htcdaskgateway")))
    # In a checkout they lie beside the package, whichever other one is installed; else they are in it.
    beside = package.parent / "templates"
    if not (package / "templates").is_dir() and (beside / "worker.sub.j2").is_file():
        return beside
    return resources.files("htcdaskgateway.templates")


def render(name: str, **values: Any) -> str:
    """Return the template `name` rendered.

    A file of that name in the directory ``htcdaskgateway.template-directory`` goes before the package's own.
    """
    import jinja2

    directory = config.get("template-directory")
    place = expand(directory, "htcdaskgateway.template-directory") if directory else None
    if place is not None and not place.is_dir():
        raise TemplateError(f"htcdaskgateway.template-directory={str(directory)!r} is not a directory")

    def load(wanted: str) -> tuple[str, str, None] | None:
        for found in (*([place] if place else []), _own()):
            file = found / wanted
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
