"""Let the person decide on the key of a host that this machine does not know."""

from __future__ import annotations

import re

from .errors import LoginError
from .secrets import Secret
from .settings import Settings
from .terminal import Terminal, last_lines

# ssh's own words before its question; what a host on the way printed stands before them.
_ASKED = re.compile(
    r"The authenticity of host '([^'\n]+)' can't be established[^\n]*\n(?:but keys [^\n]*\n)?"
    r"\S+ key fingerprint is (\S+?)\.?\n"
)


def accept(settings: Settings, terminal: Terminal, said: str) -> Secret:
    """Return the answer to ssh's question about a host's key; `said` is what stood before it, without secrets."""
    # The last: a host on the way may have printed something that looks like it.
    found = _ASKED.match(said[max(0, said.rfind("The authenticity of host '")) :])
    host, fingerprint = (found[1].split(" (")[0], found[2]) if found else (settings.login_host, "")
    if settings.host_key:
        if settings.host_key != fingerprint:
            raise LoginError(
                f"the key of {host} is not the one that was given, {settings.host_key}",
                "ask your site for the fingerprint of its login node's key; for a host on the way, log in to "
                "that one by hand first",
                last_lines(said),
            )
        return Secret("yes")
    terminal.say(f"This machine does not know {host} yet:")
    terminal.show(said)
    while True:
        answer = terminal.ask(
            "Is this the fingerprint that your site publishes? (yes, no, or ? if you do not know)",
            how="give the fingerprint with --host-key (htcdaskgateway.setup.host-key), or log in once with ssh",
        ).strip()
        if answer.lower() == "yes" or (fingerprint and answer.rstrip(".") == fingerprint):
            return Secret("yes")
        if answer == "?":
            raise LoginError(
                f"the key of {host} was not accepted, since nobody knows whether it is the right one",
                "ask your site's help desk for the fingerprint of its key. Where you have logged in to it "
                f"before, `ssh-keygen -l -F {host}` shows it, too. Then run setup_condor again with "
                "--host-key SHA256:...",
            )
        if answer.lower() == "no":
            raise LoginError(
                f"the key of {host} was not accepted",
                "ask your site for its login node's fingerprint, and answer `yes` where they agree",
            )
        terminal.say("Type yes, no, ?, or the fingerprint that your site publishes.")
