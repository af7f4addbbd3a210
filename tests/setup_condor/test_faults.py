"""What can go wrong on the way to a token: each fault ends in time, says what to do, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import asyncssh
import pytest
from setup_condor.account import DEADLINE
from setup_condor.login_node import PASSWORD
from support import first_is_quick


@pytest.fixture
def bounded() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < DEADLINE


@pytest.fixture
def failed(account, bounded):
    """Check that a session failed, said what is expected and left nothing in the account."""

    def check(one, *said, code=1):
        ended, seen = one.leaves()
        assert ended == code, seen
        text = " ".join(seen.split())
        for words in said:
            assert words in text, seen
        assert "Traceback" not in seen
        assert account.written() == [], seen
        assert account.condor("condor_q").returncode != 0

    return check


def log_in(one, password=PASSWORD):
    one.sees("(?i)password.*: ")
    one.types(password, hidden=True)


@pytest.mark.parametrize("method", first_is_quick(["keyboard-interactive", "password"]))
def test_a_wrong_password_three_times(account, login_node, person, failed, method):
    node = login_node(method=method)
    account.know(node)
    one = person(node.port)
    for password in ("first", "second", "third"):
        log_in(one, password)
    failed(one, "password", "next: check the user name and the password")
    assert node.passwords == ["first", "second", "third"]


def test_a_mistyped_password_is_asked_for_again(account, login_node, person):
    node = login_node()
    account.know(node)
    one = person(node.port)
    log_in(one, "mistyped")
    one.sees("Not accepted. Try again")
    log_in(one)
    code, seen = one.leaves()
    assert code == 0, seen


@pytest.mark.parametrize(
    ("method", "duo"), first_is_quick([("keyboard-interactive", "denied"), ("partial", "again")])
)
def test_a_denied_push_is_told_and_not_sent_again(account, login_node, person, failed, method, duo):
    node = login_node(method=method, duo=duo)
    account.know(node)
    one = person(node.port)
    log_in(one)
    failed(one, "the second factor (Duo) was denied", "tell your site")
    # What asyncssh reads of a connection that has ended is empty.
    assert [factor for factor in node.factors if factor] == ["2"], "a denied push is not sent again"
    assert node.passwords == [PASSWORD]


def test_who_never_answers_duo_is_told_to_in_time(account, login_node, person, failed):
    node = login_node(duo="silent")
    account.know(node)
    one = person(node.port, "--duo-timeout", "2s")
    log_in(one)
    failed(one, "nobody answered Duo within 2 s", "with your phone at hand")
    assert node.asked_phone.is_set()


def test_duo_gives_up_by_itself(account, login_node, person, failed):
    node = login_node(duo="timeout")
    account.know(node)
    one = person(node.port)
    log_in(one)
    failed(one, "Duo got no answer in time")


def test_a_wrong_passcode_every_time(account, login_node, person, failed):
    node = login_node()
    account.know(node)
    one = person(node.port, "--duo", "passcode")
    log_in(one)
    for number in range(4):
        one.sees(r"Passcode or option \(1-3\): ")
        one.types(f"00000{number}")
    failed(one, "the second factor was not accepted")


def test_the_login_node_is_unreachable(person, failed, free_port):
    failed(person(free_port), "127.0.0.1 cannot be reached", "VPN")


def test_the_login_node_accepts_and_says_nothing(person, failed):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        one = person(silent.getsockname()[1], "--connect-timeout", "2s")
        failed(one, "127.0.0.1 cannot be reached")


def test_the_login_nodes_name_is_unknown(person, failed):
    one = person(None, "--login-host", "no-such-host.invalid", "--connect-timeout", "5s")
    failed(one, "there is no host by the name no-such-host.invalid", "--login-host")


def test_the_host_key_changed(account, login_node, person, failed):
    node = login_node()
    known = node.key
    node.key = asyncssh.generate_private_key("ssh-ed25519")
    account.know(node)
    node.key = known
    one = person(node.port)
    failed(one, "the key of 127.0.0.1 is not the one that this machine knows", "ssh-keygen -R [127.0.0.1]:")
    assert node.passwords == []


def test_an_unknown_host_key_is_not_accepted(account, login_node, person, failed):
    node = login_node()
    one = person(node.port)
    one.sees("fingerprint that your site publishes")
    one.types("no")
    failed(one, f"the key of [127.0.0.1]:{node.port} was not accepted")
    assert not account.known_hosts.exists()


def test_another_host_key_than_the_one_given(account, login_node, person, failed):
    node = login_node()
    one = person(node.port, "--host-key", "SHA256:" + "A" * 43)
    failed(one, f"the key of [127.0.0.1]:{node.port} is not the one that was given", node.fingerprint)
    assert not account.known_hosts.exists()


@pytest.mark.parametrize("option", ["StrictHostKeyChecking=no", "stricthostkeychecking off"])
def test_host_keys_are_always_checked(account, person, failed, free_port, option):
    failed(person(free_port, "-o", option), "the login node's key is always checked")


@pytest.mark.parametrize("moment", first_is_quick(["password", "duo", "command"]))
def test_a_connection_that_is_cut_is_told_with_what_to_do(account, login_node, person, failed, moment):
    node = login_node(cut=moment)
    account.know(node)
    one = person(node.port)
    log_in(one)
    failed(one, "the connection to 127.0.0.1 was cut", "run setup_condor again")


def test_condor_token_fetch_is_missing_there(account, login_node, person, failed):
    node = login_node(environ={"PATH": "/usr/bin:/bin"})
    account.know(node)
    one = person(node.port)
    log_in(one)
    failed(one, "127.0.0.1 has no condor_token_fetch", "--token-command")


def test_condor_token_fetch_answers_an_error(account, login_node, person, failed):
    node = login_node()
    account.know(node)
    one = person(node.port, "--schedd", "nobody@nowhere.invalid")
    log_in(one)
    failed(one, "condor_token_fetch on 127.0.0.1 failed with exit code", "nobody@nowhere.invalid")


@pytest.mark.parametrize(
    "answer",
    first_is_quick(
        ["echo eyJhbGciOiJIUzI1NiJ9.cut.short", "true", r"printf '\377\376\000\033[2J garbage'"],
    ),
    ids=["half a token", "nothing", "bytes"],
)
def test_condor_token_fetch_answers_garbage(account, login_node, person, failed, answer):
    node = login_node(command=answer, method="none")
    account.know(node)
    failed(person(node.port), "answered something that is no token", "condor_token_fetch")


def test_condor_token_fetch_never_ends(account, login_node, person, failed):
    node = login_node(command="exec sleep 60", method="none")
    account.know(node)
    failed(person(node.port, "--answer-timeout", "2s"), "127.0.0.1 said nothing for 2 s")


def test_condor_token_fetch_answers_without_end(account, login_node, person, failed):
    node = login_node(command="head -c 3000000 /dev/zero | tr '\\0' x", method="none")
    account.know(node)
    failed(person(node.port), "did not finish its answer")


def test_the_token_has_expired_already(account, login_node, person, failed):
    expired = "condor_token_create -identity alice@pool.test -lifetime 1; sleep 1.1"
    node = login_node(command=expired, method="none")
    account.know(node)
    failed(person(node.port), "gave a token that has expired", "clock")


@pytest.mark.parametrize("place", ["token", "configuration"])
def test_a_full_disk_is_told_and_nothing_half_written_stays(
    account, login_node, person, small_disk, bounded, place
):
    node = login_node(method="none")
    account.know(node)
    directory = account.token.parent if place == "token" else account.configuration.parent
    before = sorted(account.home.rglob("*")) if place == "configuration" else None
    one = person(node.port, before=small_disk(directory))
    code, seen = one.leaves()
    assert code == 1, seen
    assert "No space left on device; nothing was changed" in " ".join(seen.split())
    left = seen.split("on the disk:")[1].split()
    assert left[0] == f"{directory}/filler", seen
    assert not any(".htcdaskgateway" in name or ".conf" in name for name in left), seen
    if before is not None:
        assert sorted(account.home.rglob("*")) == before, "the token was written without its configuration"


def test_the_token_directory_cannot_be_written(account, login_node, person, without_rights, bounded):
    node = login_node()
    account.know(node)
    account.token.parent.mkdir(parents=True)
    account.token.parent.chmod(0o500)
    one = person(node.port, before=without_rights)
    code, seen = one.leaves()
    assert code == 1, seen
    assert f"{account.token.parent} is not yours to write to" in " ".join(seen.split())
    assert node.passwords == [], "nobody is asked for a password in vain"
    assert list(account.token.parent.iterdir()) == []
    assert not account.configuration.exists()


def test_the_token_directory_cannot_be_made(account, person, failed, free_port):
    (account.home / "file").write_text("")
    one = person(free_port, "--token-directory", str(account.home / "file" / "tokens.d"))
    code, seen = one.leaves()
    assert code == 1, seen
    assert "is not a directory" in seen
    assert account.written() == [str(account.home / "file")]


STOPS = {
    "user name": (None, {}, ("user name at 127.0.0.1.*: ",)),
    "host key": ("alice", {}, ("fingerprint that your site publishes.*: ",)),
    "password": ("alice", {}, ("Password: ",)),
    "passcode": ("alice", {"duo": "push"}, ("Password: ", "Passcode or option.*: ")),
    "phone": ("alice", {"duo": "silent"}, ("Password: ", "answer there")),
    "question": ("alice", {"method": "none", "extra_question": "Which project? "}, ("Which project\\? ",)),
}


@pytest.mark.parametrize("prompt", first_is_quick(STOPS))
def test_ctrl_c_at_the_prompt_for(account, login_node, person, failed, prompt):
    user, behaviour, prompts = STOPS[prompt]
    node = login_node(**behaviour)
    if prompt not in ("user name", "host key"):
        account.know(node)
    one = person(node.port, "--duo", "ask" if prompt == "passcode" else "push", user=user)
    for number, text in enumerate(prompts):
        one.sees(text)
        if number < len(prompts) - 1:
            one.types(PASSWORD, hidden=True)
    if prompt == "phone":
        assert node.asked_phone.wait(DEADLINE)
    one.sends_ctrl_c()
    failed(one, "stopped; nothing was changed", code=130)


def test_nobody_answers_at_the_terminal(account, login_node, person, failed):
    node = login_node()
    account.know(node)
    failed(person(node.port, "--ask-timeout", "1s"), "no answer within 1 s")
