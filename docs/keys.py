"""`python docs/keys.py` makes docs/_generated/keys.md, the table of all settings, from the file of defaults."""

from __future__ import annotations

import re
from pathlib import Path

DEFAULTS = Path(__file__).parents[1] / "htcdaskgateway" / "htcdaskgateway.yaml"
PAGE = Path(__file__).parent / "_generated" / "keys.md"
LINE = re.compile(r"^( +)([a-z][a-z0-9-]*): *(.*?) *(?:# (.*))?$")

HEAD = """\
# Every setting and its default

`python docs/keys.py` makes this page from the file that the package ships, `htcdaskgateway/htcdaskgateway.yaml`.
[Configuration](../configuration.md) says where settings can be made and how values are written.
"""
TITLES = {
    "": "In general: `htcdaskgateway`",
    "condor": "HTCondor's tools: `htcdaskgateway.condor`",
    "packages": "The notebook's own packages: `htcdaskgateway.packages`",
    "worker": "A worker: `htcdaskgateway.worker`",
    "setup": "The command `setup_condor`: `htcdaskgateway.setup`",
}


def rendered() -> str:
    """Return the page: a table for each group of keys, with the comments of the file as descriptions."""
    groups: dict[str, list[str]] = {"": []}
    group = ""
    for line in DEFAULTS.read_text(encoding="utf-8").splitlines()[1:]:
        if not (found := LINE.match(line)):
            continue
        indent, key, value, comment = found.groups()
        group = group if len(indent) > 2 else ""
        if value:
            comment = re.sub(r"<|\|", lambda special: "\\" + special[0], comment or "")
            groups[group].append(f"| `{key}` | `{value}` | {comment} |")
        else:
            groups.setdefault(key, [])
            group = key
    parts = [HEAD]
    for name, rows in groups.items():
        parts.append(f"## {TITLES.get(name, f'`htcdaskgateway.{name}`')}\n")
        parts.append("\n".join(["| key | default | what it is |", "| --- | --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(rendered(), encoding="utf-8")
