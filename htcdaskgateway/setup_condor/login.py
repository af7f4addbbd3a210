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

from . import host_key, questions, ssh
from .errors import LoginError
from .questions import Kind
from .secrets import Redactor, Secret
from .settings import Settings
from .terminal import Terminal, last_lines

logger = logging.getLogger(__name__)

# Who asks, as ssh puts it before the question itself.
_ASKER = re.compile(r"^\s*(?:\((\S+@[^)\s]+)\) |(\S+@\S+)'s password:)")

_QUIET_HIDDEN, _QUIET_QUESTION, _QUIET_LINE = 1.0, 1.5, 5.0  # the same for a question of no known kind
_MOST_OUTPUT = 1 << 20
_AUTOMATIC = re.compile(r"autopush|pushed a login request|calling your phone", re.I)
_DUO_SUCCESS = re.compile(r"success\. logging you in", re.I)
_DUO_TIMED_OUT = re.compile(r"login (?:request )?timed out", re.I)
_DUO_DENIED = re.compile(
    r"login request denied|access denied|locked out|cannot authenticate with|marked as fraud|not permitted", re.I
)


class Login:
    """One run of a command on the login node."""

    def __init__(self, settings: Settings, terminal: Terminal, blank: Redactor) -> None:
        self.settings = settings
        self.terminal = terminal
        self.blank = blank
        self._text = ""  # what was said since the last answer
        self._line = ""  # of it, what was not logged yet
        self._asked: list[Kind] = []  # by the host that asks now
        self._asker = ""
        self._duo_waits = False  # the last answer, or the login node itself, asked somebody's phone
        self._waited = 0.0  # seconds that the person took for answers

    def run(self, remote: Sequence[str]) -> tuple[str, int]:
        """Run `remote` and return what it printed since the last question, and its exit code."""
        command = ssh.command_line(self.settings, remote)
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
            code = ssh.exit_code(child)
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
            text = ssh.read_some(child)
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
                raise LoginError(f"{self.settings.login_host} did not finish its answer", said=self._tail())
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
            raise LoginError(f"{settings.login_host} did not finish", "try again later", self._tail())

    def _answer_if_asked(self, child: pexpect.spawn, quiet: float) -> bool:
        """Answer the question that is open, if there is one, and tell whether there was."""
        echo = bool(child.getecho())
        line = _last_line(self._text)
        if not line.strip() and not echo:
            line = _last_line(self._text.rstrip())  # asked in a line of its own
        kind = questions.recognise(line, echo)
        needed = ssh.POLL
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
            return host_key.accept(self.settings, self.terminal, self.blank(self._text))
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

    def _password(self, line: str) -> Secret:
        tried = self._asked.count(Kind.PASSWORD)
        if tried:
            self._check_duo()
        if tried >= ssh.TRIES:
            host = self._asker or self.settings.login_host
            raise LoginError(f"{host} accepted none of {ssh.TRIES} passwords", ssh.CHECK_BOTH)
        if tried:
            self.terminal.say("Not accepted. Try again.")
        # Only where ssh says who asks is it sure: a jump host asks on the way, in the same words.
        question = (
            line if _ASKER.match(line) else f"Password, asked for on the way to {ssh.who(self.settings)} ({line})"
        )
        return self._ask(question, hidden=True, how="use an ssh key or a ControlMaster connection")

    def _second_factor(self, line: str, echo: bool) -> Secret:
        tried = self._asked.count(Kind.SECOND_FACTOR)
        if tried:
            self._check_duo()
        if tried > ssh.TRIES:  # one more, for the passcode of an SMS is a second answer
            raise LoginError(f"the second factor was not accepted {ssh.TRIES} times", "run setup_condor again")
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
        factor = Kind.SECOND_FACTOR in self._asked or self._duo_waits
        if factor and _DUO_TIMED_OUT.search(self._text):
            return self._too_late()
        if factor and (_DUO_DENIED.search(self._text) or ssh.refused(self._text)):
            return self._denied()
        return ssh.failure(self.settings, self._text, self._tail(), password=Kind.PASSWORD in self._asked)

    def _show(self, heading: str) -> None:
        """Show what the login node said since the last answer."""
        if heading:
            self.terminal.say(heading)
        self.terminal.show(self.blank(self._text))

    def _tail(self) -> str:
        return last_lines(self.blank(self._text))

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
