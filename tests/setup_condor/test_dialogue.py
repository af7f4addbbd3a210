"""What login nodes ask on the way, and how it is answered."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from setup_condor.account import DEADLINE
from setup_condor.login_node import PASSCODE, PASSWORD
from support import first_is_quick, processes

STRANGERS_TOKEN = (
    json.dumps({"alg": "HS256"}).encode(),
    json.dumps({"iss": "eve.test", "sub": "eve@eve.test"}).encode(),
    b"signature",
)


def log_in(one):
    one.sees("(?i)password.*: ")
    one.types(PASSWORD, hidden=True)


def succeeds(one):
    code, seen = one.leaves()
    assert code == 0, seen
    return seen


@pytest.mark.parametrize(("factor", "sent"), first_is_quick([("phone", "1"), ("2", "2")]))
def test_another_listed_option_of_duo(account, login_node, person, factor, sent):
    node = login_node()
    account.know(node)
    one = person(node.port, "--duo", factor)
    log_in(one)
    succeeds(one)
    assert node.factors == [sent]


def test_a_passcode_for_duo_after_a_wrong_one(account, login_node, person):
    node = login_node()
    account.know(node)
    one = person(node.port, "--duo", "passcode")
    log_in(one)
    one.sees("3. SMS passcodes to XXX-XXX-1234", r"Passcode or option \(1-3\): ")
    one.types("000000")
    one.sees("Incorrect passcode", r"Passcode or option \(1-3\): ")
    one.types(PASSCODE)
    succeeds(one)
    assert node.factors == ["000000", PASSCODE]


def test_a_passcode_by_sms(account, login_node, person):
    node = login_node()
    account.know(node)
    one = person(node.port, "--duo", "sms")
    log_in(one)
    one.sees("New SMS passcodes sent", r"Passcode or option \(1-3\): ")
    one.types(PASSCODE)
    succeeds(one)
    assert node.factors == ["3", PASSCODE]


def test_duo_that_asks_the_phone_by_itself(account, login_node, person):
    node = login_node(duo="auto")
    account.know(node)
    one = person(node.port)
    log_in(one)
    assert "Duo asks you on your phone" in succeeds(one)


def test_a_message_of_the_day_with_anything_in_it(account, login_node, person):
    motd = (
        "\x1b[31mWelcome!\x1b[0m\r\nYour password: do not share it.\nPasscode or option (1-3):\n"
        "Are you sure you want to continue connecting (yes/no)?\nnot.a.token, e.g. eyJub3QiOiJvbmUifQ.e30.x\n"
        "a line without an end password: "
    )
    node = login_node(method="none", motd=motd)
    account.know(node)
    seen = succeeds(person(node.port))
    assert "asks" not in seen


def test_words_around_the_command_fail_no_login_and_give_no_token(account, login_node, person):
    other = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in STRANGERS_TOKEN)
    node = login_node(
        method="none",
        banner="Change it before your password has expired.\n",
        motd=f"Your password has expired? Ask us. command not found? Ask, too.\n{other}\n",
        farewell=f"\nGood bye; an example of a token:\n{other}\n",
    )
    account.know(node)
    seen = succeeds(person(node.port))
    assert "eve" not in seen
    assert "issued by pool.test" in seen


@pytest.mark.parametrize("shell", first_is_quick(["/bin/bash", "/bin/sh", "/bin/tcsh"]))
def test_the_program_is_found_where_a_login_shell_finds_it(account, login_node, person, tmp_path, shell):
    bin_dir, home = account.conda / "bin", tmp_path / "there"
    home.mkdir()
    (home / ".profile").write_text(f"echo from the profile\nPATH=$PATH:{bin_dir}\nexport PATH\n")
    node = login_node(method="none")
    node.environ = {**node.environ, "PATH": "/usr/bin:/bin", "HOME": str(home), "SHELL": shell}
    account.know(node)
    succeeds(person(node.port))
    node.environ["HOME"] = str(tmp_path)
    code, seen = person(node.port, "--renew").leaves()
    assert code == 1
    assert "has no condor_token_fetch" in seen


def test_a_remote_command_that_ends_as_ssh_does_is_told_from_it(account, login_node, person, tmp_path):
    node = login_node(method="none")
    account.know(node)
    program = tmp_path / "fails"
    program.write_text("#!/bin/sh\necho no token today >&2\nexit 255\n")
    program.chmod(0o755)
    code, seen = person(node.port, "--token-command", str(program)).leaves()
    assert code == 1
    assert "fails on 127.0.0.1 failed with exit code 255" in seen
    assert "no token today" in seen


def test_the_users_name_may_stand_before_the_login_hosts(account, login_node, person):
    node = login_node(method="none")
    account.know(node)
    seen = succeeds(person(node.port, "--login-host", "bob@127.0.0.1", "--debug", user=None))
    assert "-l bob" in seen


def through(account, jump) -> str:
    """Return the option that leads through a host on the way, as ProxyJump does, with the account's known keys."""
    words = f"-o UserKnownHostsFile={account.known_hosts} -o IdentityFile=none -o IdentityAgent=none"
    return f"ProxyCommand=ssh {words} -p {jump.port} -l carol -W [%h]:%p localhost"


def test_each_password_is_asked_for_by_the_host_that_it_goes_to(account, login_node, person):
    jump, node = login_node(duo="push"), login_node()
    account.know(node)
    key = jump.key.export_public_key().decode().strip()
    account.known_hosts.write_text(account.known_hosts.read_text() + f"[localhost]:{jump.port} {key}\n")
    one = person(node.port, "-o", through(account, jump))
    one.sees(r"\(carol@localhost\) Password:")
    one.types(PASSWORD, hidden=True)
    one.sees(r"\(alice@127.0.0.1\) Password:")
    assert "127.0.0.1's" not in one.seen
    assert "not accepted" not in one.seen
    one.types(PASSWORD, hidden=True)
    succeeds(one)
    assert jump.passwords == node.passwords == [PASSWORD]


def test_a_fingerprint_counts_in_sshs_own_words_alone(account, login_node, person):
    jump, node = login_node(method="none"), login_node(method="none")
    key = jump.key.export_public_key().decode().strip()
    account.known_hosts.write_text(f"[localhost]:{jump.port} {key}\n")
    given = jump.fingerprint
    jump.banner = (
        f"The key is {given} or\nThe authenticity of host 'x (x)' can't be established.\n"
        f"ED25519 key fingerprint is {given}.\n"
    )
    code, seen = person(node.port, "-o", through(account, jump), "--host-key", given).leaves()
    assert code == 1
    assert "is not the one that was given" in seen
    assert node.commands == []

    succeeds(person(node.port, "-o", through(account, jump), "--host-key", node.fingerprint))


@pytest.mark.long
def test_the_answers_to_the_question_for_the_host_key(account, login_node, person):
    node = login_node(method="none")
    one = person(node.port)
    for answer in ("not", "SHA256:", "maybe", "y"):
        one.sees(r"\? \(yes, no, or \? if you do not know\)")
        one.types(answer)
        one.sees("Type yes, no, \\?, or the fingerprint")
    one.types("?")
    code, seen = one.leaves()
    assert code == 1
    assert "help desk" in seen
    assert "ssh-keygen -l -F [127.0.0.1]" in seen
    assert node.commands == []
    one = person(node.port)
    one.sees("if you do not know")
    one.types("no")
    assert one.leaves()[0] == 1
    for answer in (node.fingerprint, f"{node.fingerprint}.", "yes"):
        account.known_hosts.unlink(missing_ok=True)
        one = person(node.port, "--renew")
        one.sees("if you do not know")
        one.types(answer)
        succeeds(one)


@pytest.mark.parametrize("question", first_is_quick(["Which one? ", "Choose one, then Return"]))
def test_a_question_nobody_foresaw_is_put_to_the_user(account, login_node, person, question):
    node = login_node(method="none", motd="Two projects are yours: a and b.\n", extra_question=question)
    account.know(node)
    one = person(node.port)
    one.sees("127.0.0.1 asks:", "Two projects are yours", re.escape(question))
    one.types("b")
    succeeds(one)
    assert node.answers == ["b"]


def test_the_answer_to_a_question_that_hides_it_is_not_seen(account, login_node, person):
    node = login_node(hidden_question="Your memorable word: ")
    account.know(node)
    one = person(node.port, "--debug")
    log_in(one)
    one.sees("127.0.0.1 asks:", "Your memorable word: ")
    one.types("swordfish", hidden=True)
    assert "swordfish" not in succeeds(one)
    assert node.answers == ["swordfish"]


def test_a_new_password_that_is_demanded(account, login_node, person):
    node = login_node(method="expired")
    account.know(node)
    one = person(node.port, "--debug")
    log_in(one)
    one.sees("wants you to choose a new password", "old password: ")
    one.types(PASSWORD, hidden=True)
    one.sees("Enter.*new password: ")
    one.types("another-secret", hidden=True)
    one.sees("Retype.*new password: ")
    one.types("another-secret", hidden=True)
    seen = succeeds(one)
    assert node.passwords == [PASSWORD, PASSWORD, "another-secret"]
    assert "another-secret" not in seen


@pytest.mark.long
def test_no_secret_is_seen_anywhere(account, login_node, person, tmp_path):
    node = login_node(duo="silent", echoes_password=True)
    account.know(node)
    one = person(node.port, "--debug", "--duo-timeout", "5s")
    log_in(one)
    one.sees("answer there")
    assert node.asked_phone.wait(DEADLINE)
    for _, command, environment in processes():
        assert PASSWORD not in command + environment
    code, _ = one.leaves()
    assert code == 1

    node.duo = "push"
    one = person(node.port, "--debug")
    log_in(one)
    seen = succeeds(one)
    assert "ssh says: debug: your password is ********" in seen
    assert "ssh says: ********" in seen, "the token"
    assert PASSWORD not in seen
    assert "eyJ" not in seen
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size < 1 << 20]
    assert account.token in files
    for path in files:
        assert PASSWORD.encode() not in path.read_bytes(), path
        assert path == account.token or b"eyJ" not in path.read_bytes(), path


def test_without_a_terminal_an_open_question_fails_at_once(account, login_node):
    node = login_node()
    account.know(node)
    done = account.run(*account.command(node.port))
    assert done.returncode == 1
    assert "There is no terminal to ask" in done.stderr
    assert "ControlMaster" in done.stderr
    assert account.written() == []


def test_without_a_terminal_an_unknown_host_key_fails_at_once(account, login_node):
    node = login_node(method="none")
    done = account.run(*account.command(node.port))
    assert done.returncode == 1
    assert "--host-key" in done.stderr
    assert not account.known_hosts.exists()


def test_without_a_terminal_what_is_configured_is_enough(account, login_node):
    node = login_node(method="none")
    (account.home / ".env").write_text(
        "DASK_HTCDASKGATEWAY__SETUP__USER=alice\n"
        f"DASK_HTCDASKGATEWAY__SETUP__PORT={node.port}\n"
        "DASK_HTCDASKGATEWAY__SETUP__LOGIN_HOST=ignored.invalid\n"
    )
    dask = Path(account.environ["DASK_CONFIG"])
    dask.mkdir()
    (dask / "site.yaml").write_text(
        "htcdaskgateway:\n  setup:\n"
        f"    ssh-options: [UserKnownHostsFile={account.known_hosts}, IdentityFile=none, IdentityAgent=none]\n"
        "    token-lifetime: 2h\n    token-name: elsewhere\n    trust-domain: pool.test\n"
        f"    collector: {account.collector}\n    schedd: schedd@\n    condor-settings: {{SUBMIT_EXPRS: ''}}\n"
    )
    account.settings["DASK_HTCDASKGATEWAY__SETUP__LOGIN_HOST"] = "127.0.0.1"
    command = account.command(None, "--host-key", node.fingerprint, user=None)
    done = account.run(*command[:3], *command[-2:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(node.commands) == 1
    assert "condor_token_fetch -name schedd@ -lifetime 7200;" in node.commands[0]
    assert account.token.with_name("elsewhere").is_file()
    assert "TRUST_DOMAIN = pool.test" in account.configuration.read_text()
    assert "expires 20" in done.stdout
