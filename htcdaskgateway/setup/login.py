"""Run one command on the login node by ssh, and answer what ssh and the login node ask on the way."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence

import pexpect

from . import questions
from .errors import LoginError
from .questions import Kind
from .secrets import Blanker, Secret
from .settings import Settings
from .terminal import Terminal

logger = logging.getLogger(__name__)

# Who asks, as ssh puts it before the question itself.
_ASKER = re.compile(r"^\s*(?:\((\S+@[^)\s]+)\) |(\S+@\S+)'s password:)")
# ssh's own words before its question; what a host on the way printed stands before them.
_HOST_KEY = re.compile(
    r"The authenticity of host '([^'\n]+)' can't be established[^\n]*\n(?:but keys [^\n]*\n)?"
    r"\S+ key fingerprint is (\S+?)\.?\n"
)

TRIES = 3
"""How often a password or a second factor is asked for."""

_POLL = 0.2  # how long the login node must be silent before its unfinished line is taken for a question
_QUIET_HIDDEN, _QUIET_QUESTION, _QUIET_LINE = 1.0, 1.5, 5.0  # the same for a question of no known kind
_MOST_OUTPUT = 1 << 20
_AUTOMATIC = re.compile(r"autopush|pushed a login request|calling your phone", re.I)
_DUO_SUCCESS = re.compile(r"success\. logging you in", re.I)
_DUO_TIMED_OUT = re.compile(r"login (?:request )?timed out", re.I)
_DUO_DENIED = re.compile(
    r"login request denied|access denied|locked out|cannot authenticate with|marked as fraud|not permitted", re.I
)

_REFUSED = "Permission denied|Too many authentication failures|No more authentication methods"
_CHECK_BOTH = "check the user name and the password; wait before you try again, for some sites lock the account"

# What ssh says when it fails; the first that matches is told.
_FAILURES = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed",
        "the key of {host} is not the one that this machine knows: somebody may be listening in, or the host was "
        "set up anew",
        "ask your site whether the key changed and for its fingerprint; only then remove the old one with "
        "`ssh-keygen -R {known}`, and run setup_condor again",
    ),
    (
        "Could not resolve hostname|Name or service not known",
        "there is no host by the name {host}",
        "check --login-host (htcdaskgateway.setup.login-host) and this machine's network",
    ),
    (
        "Host key verification failed",
        "the key of {host} was not accepted",
        "compare its fingerprint with the one that your site publishes, and run setup_condor again",
    ),
    (
        "[Pp]assword change required|password has expired|password is expired",
        "{host} wants a new password before it lets you in",
        "log in once with `ssh {who}`, change the password there, and run setup_condor again",
    ),
    (
        "Connection refused|No route to host|Network is unreachable|Connection timed out|Operation timed out"
        "|Connection to .* timed out|timed out during banner exchange",
        "{host} cannot be reached",
        "is the host up, and does it ask for your site's network or VPN? Check --login-host and --port",
    ),
    (
        _REFUSED,
        "{host} did not let {user} in",
        "check the user name; try `ssh {who}` by hand",
    ),
    (
        "closed by remote host|Connection closed|Connection reset|Broken pipe|not responding|client_loop"
        "|kex_exchange_identification|Connection to .* closed|disconnected",
        "the connection to {host} was cut",
        "run setup_condor again; if it happens again, try `ssh {who}` by hand",
    ),
)


def command_line(settings: Settings, remote: Sequence[str]) -> list[str]:
    """Return the command line of ssh that runs `remote` on the login node."""
    strict = any(option.lower().startswith("stricthostkeychecking") for option in settings.ssh_options)
    ours = [
        *([] if strict else ["StrictHostKeyChecking=ask"]),
        f"ConnectTimeout={max(1, round(settings.connect_timeout))}",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=3",
        f"NumberOfPasswordPrompts={TRIES}",
        # What a user's own ssh configuration may say for interactive work, and what would be in the way here.
        "RemoteCommand=none",
        "ClearAllForwardings=yes",
        "LogLevel=INFO",
    ]
    command = ["ssh", "-T"]
    for option in (*ours, *settings.ssh_options):
        command += ["-o", option]
    if settings.user:
        command += ["-l", settings.user]
    if settings.port:
        command += ["-p", str(settings.port)]
    return [*command, "--", settings.login_host, shlex.join(remote)]


class Login:
    """One run of a command on the login node.

    Parameters
    ----------
    settings : Settings
        Where, as whom and how.
    terminal : Terminal
        The person who answers what the settings do not.
    blank : Blanker
        What keeps secrets out of everything shown.
    """

    def __init__(self, settings: Settings, terminal: Terminal, blank: Blanker) -> None:
        self.settings = settings
        self.terminal = terminal
        self.blank = blank
        self._text = ""  # what was said since the last answer
        self._line = ""  # of it, what was not logged yet
        self._asked: list[Kind] = []  # by the host that asks now
        self._asker = ""
        self._duo_waits = False  # the last answer, or the login node itself, asked somebody's phone
        self._waited = 0.0  # seconds that the person took for answers

    @property
    def _who(self) -> str:
        user = self.settings.user
        return f"{user}@{self.settings.login_host}" if user else self.settings.login_host

    def run(self, remote: Sequence[str]) -> tuple[str, int]:
        """Run `remote` and return what it printed since the last question, and its exit code.

        Raises
        ------
        SetupError
            ssh failed, a question stayed unanswered, or the time was over. ssh has been ended.
        """
        command = command_line(self.settings, remote)
        if shutil.which(command[0]) is None:
            raise LoginError("there is no `ssh` on this machine", "install OpenSSH's client (conda: openssh)")
        logger.debug("running %s", shlex.join(command))
        # LC_ALL: ssh and what asks for a password there speak English; SSH_ASKPASS: no window.
        environment = {**os.environ, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}
        child = pexpect.spawn(
            command[0], command[1:], env=environment, encoding="utf-8", codec_errors="replace", timeout=None
        )
        child.delaybeforesend = None
        try:
            self._converse(child)
            code = _exit_code(child)
        finally:
            child.close(force=True)
        self._debug("", end=True)
        logger.debug("ssh ended with exit code %d", code)
        if code == 255:
            raise self._failure()
        return self._text, code

    def _converse(self, child: pexpect.spawn) -> None:
        started = heard = time.monotonic()
        received = 0
        while True:
            text = _read(child)
            if text is None:
                return
            now = time.monotonic()
            if text:
                heard = now
                received += len(text)
                self._hear(text)
            elif self._answer_if_asked(child, now - heard):
                heard = time.monotonic()
            if received > _MOST_OUTPUT:
                raise LoginError(f"{self.settings.login_host} answered without an end", said=self._tail())
            self._check_time(now - heard, now - started - self._waited)

    def _hear(self, text: str) -> None:
        self._text += text
        self._debug(text)
        if not self._duo_waits and _AUTOMATIC.search(text):
            self._duo_waits = True
            self.terminal.say(f"Duo asks you on your phone; you have {self.settings.duo_timeout:g} s to answer.")
        elif self._duo_waits and _DUO_SUCCESS.search(self._text):
            self._duo_waits = False

    def _check_time(self, silent: float, total: float) -> None:
        settings = self.settings
        if self._duo_waits:
            if silent > settings.duo_timeout:
                raise LoginError(
                    f"nobody answered Duo within {settings.duo_timeout:g} s",
                    "run setup_condor again with your phone at hand, or choose another way with --duo passcode "
                    "(or phone, sms, ask)",
                )
        elif silent > settings.answer_timeout:
            raise LoginError(
                f"{settings.login_host} said nothing for {settings.answer_timeout:g} s",
                "try again later; --answer-timeout raises the limit",
                self._tail(),
            )
        if total > settings.connect_timeout + 2 * settings.duo_timeout + 5 * settings.answer_timeout:
            raise LoginError(f"{settings.login_host} came to no end", "try again later", self._tail())

    def _answer_if_asked(self, child: pexpect.spawn, quiet: float) -> bool:
        """Answer the question that is open, if there is one, and tell whether there was."""
        echo = bool(child.getecho())
        line = _last_line(self._text)
        if not line.strip() and not echo:
            line = _last_line(self._text.rstrip())  # asked in a line of its own
        kind = questions.recognise(line, echo)
        needed = _POLL
        if kind is None:
            if not line.strip() or not self.terminal.interactive:
                return False
            kind, needed = Kind.UNKNOWN, _QUIET_LINE
        elif kind is Kind.UNKNOWN:
            if echo and not self.terminal.interactive:
                return False  # more likely a message than a question
            needed = _QUIET_QUESTION if echo else _QUIET_HIDDEN
        if quiet < needed:
            return False
        self._debug("", end=True)
        logger.debug("taken for a question of the kind %r", kind.value)
        self._note_asker(line)
        before = time.monotonic()
        answer = self._answer(kind, self.blank(line).strip(), echo)
        self._waited += time.monotonic() - before
        self._asked.append(kind)
        self._duo_waits = kind is Kind.SECOND_FACTOR
        self._text = ""
        if not child.isalive():
            return True  # the login node lost its patience; what it said is read next
        try:
            child.sendline(answer.reveal())
        except OSError:
            logger.debug("ssh had ended before the answer came")
        return True

    def _note_asker(self, line: str) -> None:
        """Note which host asks, if ssh says so: a host on the way has questions and tries of its own."""
        found = _ASKER.match(self.blank(line))
        asker = (found[1] or found[2]) if found else self._asker
        if asker != self._asker and self._asker:
            self._asked.clear()
            self._duo_waits = False
        self._asker = asker

    def _answer(self, kind: Kind, line: str, echo: bool) -> Secret:
        if kind is Kind.HOST_KEY:
            return self._accept_host_key()
        if kind is Kind.PASSWORD:
            return self._password(line)
        if kind is Kind.SECOND_FACTOR:
            return self._second_factor(line, echo)
        if kind is Kind.NEW_PASSWORD and kind not in self._asked:
            self.terminal.say(f"{self._asker or self.settings.login_host} wants you to choose a new password.")
        if kind is Kind.UNKNOWN:
            self._show(f"{self._asker or self.settings.login_host} asks:")
        return self._ask(line, hidden=not echo or questions.wants_hiding(line))

    def _ask(self, line: str, *, hidden: bool, how: str = "") -> Secret:
        if hidden:
            answer = self.terminal.ask_secret(line, how=how)
        else:
            answer = Secret(self.terminal.ask(line, default="", how=how))
        if hidden or re.fullmatch(r"\d{6,}", answer.reveal()):
            self.blank.add(answer)
        return answer

    def _accept_host_key(self) -> Secret:
        shown = self.blank(self._text)
        # The last: a host on the way may have printed something that looks like it.
        found = _HOST_KEY.match(shown[max(0, shown.rfind("The authenticity of host '")) :])
        host, fingerprint = (found[1].split(" (")[0], found[2]) if found else (self.settings.login_host, "")
        known = self.settings.host_key
        if known:
            if known != fingerprint:
                raise LoginError(
                    f"the key of {host} is not the one that was given, {known}",
                    "ask your site for the fingerprint of its login node's key; for a host on the way, log in to "
                    "that one by hand first",
                    self._tail(),
                )
            return Secret("yes")
        self._show(f"This machine does not know {host} yet:")
        while True:
            answer = self.terminal.ask(
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
            self.terminal.say("Type yes, no, ?, or the fingerprint that your site publishes.")

    def _password(self, line: str) -> Secret:
        tried = self._asked.count(Kind.PASSWORD)
        if tried:
            self._check_duo()
        if tried >= TRIES:
            raise LoginError(
                f"{self._asker or self.settings.login_host} accepted none of {TRIES} passwords", _CHECK_BOTH
            )
        if tried:
            self.terminal.say("That was not accepted; once more.")
        # Only where ssh says who asks is it sure: a jump host asks on the way, in the same words.
        question = line if _ASKER.match(line) else f"Password, asked for on the way to {self._who} ({line})"
        return self._ask(question, hidden=True, how="use an ssh key or a ControlMaster connection")

    def _second_factor(self, line: str, echo: bool) -> Secret:
        tried = self._asked.count(Kind.SECOND_FACTOR)
        if tried:
            self._check_duo()
        if tried > TRIES:  # one more, for the passcode of an SMS is a second answer
            raise LoginError(f"the second factor was not accepted {TRIES} times", "run setup_condor again")
        listed = questions.options(self.blank(self._text))
        wanted = self.settings.duo
        chosen = None if tried else questions.choose(wanted, listed)
        if chosen is not None:
            self.terminal.say(f"Second factor: {listed[chosen]}")
            if re.search(r"push|phone|call", listed[chosen], re.I):
                self.terminal.say(f"  answer there; you have {self.settings.duo_timeout:g} s")
            return Secret(chosen)
        self._show("")
        if not tried and listed and wanted not in ("ask", "passcode"):
            self.terminal.say(f"What --duo asks for, {wanted!r}, is not among them.")
        return self._ask(line, hidden=not echo, how="choose another factor with --duo")

    def _check_duo(self) -> None:
        """Raise if a question that comes back means that the second factor failed for good."""
        if _DUO_TIMED_OUT.search(self._text):
            raise self._too_late()
        order = [kind for kind in self._asked if kind in (Kind.PASSWORD, Kind.SECOND_FACTOR)]
        again = order[0] is Kind.PASSWORD and order[-1] is Kind.SECOND_FACTOR
        menu = questions.recognise(_last_line(self._text), echo=True) is Kind.SECOND_FACTOR
        # Back at the password after the second factor: it was refused, said or unsaid.
        if _DUO_DENIED.search(self._text) or (not menu and (again or self._duo_waits)):
            raise self._denied()

    def _denied(self) -> LoginError:
        return LoginError(
            "the second factor (Duo) was denied",
            "if it was not you who denied it, tell your site; else run setup_condor again (--duo chooses the way)",
            self._tail(),
        )

    def _too_late(self) -> LoginError:
        return LoginError(
            "Duo got no answer in time", "run setup_condor again with your phone at hand", self._tail()
        )

    def _failure(self) -> LoginError:
        """Return the error that tells why ssh ended with its own exit code."""
        settings = self.settings
        values = {
            "host": settings.login_host,
            "who": self._who,
            "user": settings.user or "you",
            "known": f"[{settings.login_host}]:{settings.port}" if settings.port else settings.login_host,
        }
        factor = Kind.SECOND_FACTOR in self._asked or self._duo_waits
        if factor and _DUO_TIMED_OUT.search(self._text):
            return self._too_late()
        if factor and _DUO_DENIED.search(self._text):
            return self._denied()
        for pattern, message, hint in _FAILURES:
            if not re.search(pattern, self._text):
                continue
            if pattern is _REFUSED and factor:
                return self._denied()
            if pattern is _REFUSED and Kind.PASSWORD in self._asked:
                message, hint = "{host} did not accept the password", _CHECK_BOTH
            return LoginError(message.format(**values), hint.format(**values), self._tail())
        return LoginError(f"ssh to {settings.login_host} failed", f"try `ssh {self._who}` by hand", self._tail())

    def _show(self, heading: str) -> None:
        """Show what the login node said since the last answer, without the question itself."""
        if heading:
            self.terminal.say(heading)
        lines = [line.rstrip() for line in self.blank(self._text).split("\n")[:-1]]
        for line in lines[-20:]:
            if line:
                self.terminal.say(f"  {line}")

    def _tail(self) -> str:
        lines = [line.rstrip() for line in self.blank(self._text).splitlines()]
        return "\n".join([line for line in lines if line][-12:])

    def _debug(self, text: str, *, end: bool = False) -> None:
        """Log what ssh says by whole lines: a secret may come in two pieces."""
        if not logger.isEnabledFor(logging.DEBUG):
            return
        self._line += text
        lines = self._line.split("\n")
        self._line = "" if end else lines.pop()
        for line in lines:
            shown = self.blank(line).rstrip()
            if shown:
                logger.debug("ssh says: %s", shown)


def _last_line(text: str) -> str:
    # No question is longer, and a page without a line break would keep the patterns busy.
    return text[-500:].rsplit("\n", 1)[-1]


def _read(child: pexpect.spawn) -> str | None:
    """Return what ssh printed, an empty text if it is silent, None at its end."""
    try:
        return str(child.read_nonblocking(4096, timeout=_POLL))
    except pexpect.TIMEOUT:
        # A ControlMaster that stays behind keeps the terminal open after ssh has ended.
        return "" if child.isalive() else None
    except pexpect.EOF:
        return None


def _exit_code(child: pexpect.spawn) -> int:
    deadline = time.monotonic() + 5
    while child.isalive() and time.monotonic() < deadline:
        time.sleep(0.02)
    if child.exitstatus is None:
        return 255
    return int(child.exitstatus)
