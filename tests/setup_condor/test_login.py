"""What setup_condor makes of a login node's words, without a login node: rare turns of the dialogue."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from htcdaskgateway import config
from htcdaskgateway.setup_condor import host_key, settings, ssh, verdict
from htcdaskgateway.setup_condor.errors import LoginError
from htcdaskgateway.setup_condor.login import Login
from htcdaskgateway.setup_condor.questions import Kind
from htcdaskgateway.setup_condor.secrets import Redactor, Secret
from htcdaskgateway.setup_condor.terminal import Terminal


class Noted(Terminal):
    """A terminal whose person answers with `answer`, and what was said there."""

    def __init__(self, answer: str = "") -> None:
        super().__init__(60, interactive=True)
        self.answer, self.said = answer, ""

    def say(self, text: str, *, bold: bool = False) -> None:
        self.said += text + "\n"

    def ask(self, question: str, **options: Any) -> str:
        return self.answer

    def ask_secret(self, question: str, **options: Any) -> Secret:
        return Secret(self.answer)


@pytest.fixture
def login() -> Login:
    config.set_defaults()
    return Login(settings.load({"login-host": "login.test", "user": "me"}), Noted("x"), Redactor())


def test_the_time_that_a_person_takes_is_not_counted_against_the_login_node(login, monkeypatch):
    login._waited = 36000.0
    monkeypatch.setattr(ssh, "read_some", Mock(side_effect=["Welcome\n", None]))
    login._converse(Mock())


def test_only_a_new_password_is_announced_as_one_and_once(login):
    login._answer(Kind.PASSPHRASE, "Enter passphrase:", False)
    assert "new password" not in login.terminal.said
    login._answer(Kind.NEW_PASSWORD, "New password:", False)
    assert login.terminal.said.count("login.test wants you to choose a new password") == 1
    login._asked.append(Kind.NEW_PASSWORD)
    login._answer(Kind.NEW_PASSWORD, "Retype new password:", False)
    assert login.terminal.said.count("wants you to choose a new password") == 1


def test_passwords_are_not_asked_for_without_an_end(login):
    login._asked = [Kind.PASSWORD] * ssh.TRIES
    with pytest.raises(LoginError, match=f"accepted none of {ssh.TRIES} passwords"):
        login._password("me@login.test's password: ")


@pytest.mark.parametrize(
    ("asked", "waits", "text", "denied"),
    [
        ([Kind.PASSWORD], False, "me@login.test's password: ", False),
        ([Kind.PASSWORD], False, "Login request denied.\nme@login.test's password: ", True),
        ([Kind.PASSWORD, Kind.SECOND_FACTOR], False, "me@login.test's password: ", True),
        ([Kind.SECOND_FACTOR], True, "me@login.test's password: ", True),
        ([Kind.PASSWORD, Kind.SECOND_FACTOR], True, "Passcode or option (1-2): ", False),
    ],
)
def test_a_denied_second_factor_is_told_said_or_unsaid_and_a_wrong_password_is_not_taken_for_one(
    login, asked, waits, text, denied
):
    login._asked, login._duo_waits, login._text = asked, waits, text
    if denied:
        with pytest.raises(LoginError, match="denied"):
            login._check_duo()
    else:
        login._check_duo()


def test_the_fingerprint_is_shown_to_who_is_asked_about_it(login):
    said = (
        "The authenticity of host 'login.test (10.0.0.1)' can't be established.\n"
        "ED25519 key fingerprint is SHA256:abc.\n"
        "Are you sure you want to continue connecting (yes/no/[fingerprint])? "
    )
    person = Noted("SHA256:abc")
    assert host_key.accept(login.settings, person, said).reveal() == "yes"
    assert "does not know login.test yet" in person.said
    assert "key fingerprint is SHA256:abc" in person.said


def test_the_last_word_of_a_tool_is_its_last_line_that_says_something():
    assert verdict.last_line("a first word\nthe last\n \n") == "the last"
