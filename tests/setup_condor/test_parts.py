"""The parts of setup_condor by themselves: tokens, questions, secrets, files, configuration, settings."""

from __future__ import annotations

import base64
import itertools
import json
import os
import pickle
import stat
import string
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcdaskgateway import config
from htcdaskgateway.errors import ConfigError
from htcdaskgateway.plain import plain
from htcdaskgateway.setup_condor import condor_config, files, questions, secrets, settings, ssh, tokens, upgrade
from htcdaskgateway.setup_condor.condor_config import Target
from htcdaskgateway.setup_condor.errors import LoginError
from htcdaskgateway.setup_condor.files import NewFile
from htcdaskgateway.setup_condor.questions import Kind


def part(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def jwt(**payload: object) -> str:
    claims = {"iss": "pool.test", "sub": "alice@pool.test", **payload}
    return ".".join((part({"alg": "HS256", "kid": "POOL"}), part(claims), part(b"signature")))


@pytest.fixture
def defaults() -> None:
    config.set_defaults()


@given(
    before=st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    after=st.text(alphabet=string.whitespace + "\"'>,;!$%&/()[]{}"),
    claims=st.fixed_dictionaries({}, optional={"jti": st.text(max_size=300), "exp": st.integers(0, 10**10)}),
)
def test_a_token_is_found_among_anything(before, after, claims):
    token = jwt(**claims)
    found = tokens.find(f"{before}\n{token}{after}")
    assert found is not None
    assert found.text == token
    assert token not in repr(found)


@pytest.mark.parametrize("around", ["token={}.", '{{"token": "{}"}}', "<{}>", "bearer-{}", "\r\n{}\r\n", "{}..."])
def test_a_token_is_found_inside_other_text(around):
    found = tokens.find(around.format(jwt()))
    assert found is not None
    assert found.text == jwt()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b.c",
        "htc-login1.campuscluster.illinois.edu",
        jwt().rsplit(".", 1)[0],
        ".".join((part({"alg": "HS256"}), part([1]), part(b"x"))),
        ".".join((part("alg"), part({"iss": "a", "sub": "b"}), part(b"x"))),
        ".".join((part({"typ": "JWT"}), part({"iss": "a", "sub": "b"}), part(b"x"))),
        ".".join((part({"alg": "HS256"}), part({"iss": 1, "sub": "b"}), part(b"x"))),
        jwt().replace(".", "!"),
        pytest.param("[" * 100000, id="brackets"),
        pytest.param(".".join((part({"alg": "HS256"}), part(b"[" * 100000), part(b"x"))), id="brackets inside"),
        ".".join((part({"alg": "HS256"}), part(b"\xff"), part(b"x"))),
    ],
)
def test_what_is_no_token_is_not_taken_for_one(text):
    assert tokens.find(text) is None


def test_what_a_token_says_cannot_steer_a_terminal():
    token = tokens.parse(jwt(iss="\x1b[2Jpool", sub="a\nb", scope="condor:/READ condor:/WRITE", exp=1, iat="x"))
    assert token is not None
    assert token.summary().isprintable()
    assert "condor:/READ condor:/WRITE, expired 1970-01-0" in token.summary()
    assert token.expired()
    assert not token.fresh()


@pytest.mark.parametrize(
    ("iat", "exp", "now", "fresh"),
    [
        (0, None, 10, True),
        (0, 100, 49, True),
        (0, 100, 51, False),
        (0, 100, 100, False),
        (0, 10**7, 10**7 - 90000, True),
        (0, 10**7, 10**7 - 80000, False),
    ],
)
def test_a_token_is_renewed_while_it_still_works(iat, exp, now, fresh):
    token = tokens.parse(jwt(iat=iat, **({} if exp is None else {"exp": exp})))
    assert token is not None
    assert token.fresh(now) is fresh


def test_a_token_directory_is_read_as_htcondor_reads_it(tmp_path: Path):
    for name, text, mode in (
        ("b", f"# a comment\n{jwt()}\n{jwt(sub='bob@pool.test')}\n", 0o600),
        ("a", jwt(), 0o640),
        (".hidden", jwt(), 0o600),
        ("old~", jwt(), 0o600),
        ("c", "nothing", 0o600),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    (tmp_path / "directory").mkdir()
    found = tokens.directory(tmp_path)
    assert [(file.path.name, len(file.tokens), file.open_to_others) for file in found] == [
        ("a", 1, True),
        ("b", 2, False),
        ("c", 0, False),
    ]
    assert found[2].problem == "holds no token"


@pytest.mark.parametrize(
    ("line", "echo", "kind"),
    [
        ("Are you sure you want to continue connecting (yes/no/[fingerprint])? ", True, Kind.HOST_KEY),
        ("Are you sure you want to continue connecting (yes/no)? ", True, Kind.HOST_KEY),
        ("Please type 'yes', 'no' or the fingerprint: ", True, Kind.HOST_KEY),
        ("Enter passphrase for key '/home/me/.ssh/id_ed25519': ", False, Kind.PASSPHRASE),
        ("me@host's password: ", False, Kind.PASSWORD),
        ("(me@host) Password: ", False, Kind.PASSWORD),
        ("Password for me@REALM: ", False, Kind.PASSWORD),
        ("me@new.example.edu's password: ", False, Kind.PASSWORD),
        ("(me@otp.example.edu) Password: ", False, Kind.PASSWORD),
        ("Passcode or option (1-3): ", True, Kind.SECOND_FACTOR),
        ("(me@host) Verification code: ", False, Kind.SECOND_FACTOR),
        ("One-time password (OATH) for `me': ", False, Kind.SECOND_FACTOR),
        ("Current password: ", False, Kind.NEW_PASSWORD),
        ("New password: ", False, Kind.NEW_PASSWORD),
        ("Enter me@host's new password: ", False, Kind.NEW_PASSWORD),
        ("Retype new password: ", False, Kind.NEW_PASSWORD),
        ("Enter PIN for 'key': ", False, Kind.UNKNOWN),
        ("Passwort", False, Kind.UNKNOWN),
        ("Which project? ", True, Kind.UNKNOWN),
        ("Your password: ", True, Kind.UNKNOWN),
        ("Welcome to the password-free zone", True, None),
        ("  ", False, None),
    ],
)
def test_the_kind_of_a_question(line, echo, kind):
    assert questions.recognise(line, echo) is kind


@given(st.text(), st.booleans())
def test_a_password_goes_only_where_the_terminal_hides_it(line, echo):
    kind = questions.recognise(line, echo)
    assert not (echo and kind in (Kind.PASSWORD, Kind.PASSPHRASE, Kind.NEW_PASSWORD))


def test_the_option_of_a_second_factor():
    listed = questions.options("Duo\n 1. Phone call to X\n 2. Duo Push to X\n10. SMS passcodes\n1.5 no option\n")
    assert listed == {"1": "Phone call to X", "2": "Duo Push to X", "10": "SMS passcodes"}
    chosen = {
        name: questions.choose(name, listed) for name in ("push", "phone", "sms", "10", "7", "ask", "passcode")
    }
    assert chosen == {"push": "2", "phone": "1", "sms": "10", "10": "10", "7": None, "ask": None, "passcode": None}


@given(secret=st.text(alphabet=string.printable.strip(), min_size=6), around=st.text())
def test_a_secret_is_blanked_wherever_it_stands(secret, around):
    blank = secrets.Redactor()
    blank.add(secrets.Secret(secret))
    shown = blank(f"{around}{secret} {secret}\x1b[1m{around}")
    assert secret not in shown.replace(secrets.BLANK, "")
    assert jwt() not in blank(f"is {jwt()}.")
    assert secret not in repr(secrets.Secret(secret)) or secret in "Secret(********)"


def test_what_is_shown_cannot_steer_a_terminal():
    shown = plain("a\x1b[2J\x1b]0;title\x07b\rc\x00\x9bd\te\n")
    assert shown == "ab\ncd\te\n"


def test_several_files_are_written_or_none(tmp_path: Path):
    tmp_path /= "here"
    tmp_path.mkdir()
    old = tmp_path / "old"
    old.write_text("before")
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    new = [
        NewFile(old, b"after"),
        NewFile(tmp_path / "a/b/new", b"x"),
        NewFile(blocked, b"a directory is in the way"),
    ]
    with pytest.raises(OSError, match="irectory"):
        files.write_all(new)
    assert old.read_text() == "before"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["blocked", "old"]
    umask = os.umask(0o777)
    try:
        files.write_all(new[:2])
    finally:
        os.umask(umask)
    assert old.read_text() == "after"
    assert stat.S_IMODE((tmp_path / "a/b/new").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o700


def test_two_backups_in_a_second_are_two_files(tmp_path: Path):
    file = tmp_path / "file"
    assert files.backup_of(file, tmp_path / "backups") is None
    file.write_text("x")
    for _ in range(3):
        backup = files.backup_of(file, tmp_path / "backups")
        assert backup is not None
        files.write_all([backup])
    assert len(list((tmp_path / "backups").iterdir())) == 3


def test_the_configuration_joins_a_users_own(defaults):
    block = condor_config.render(settings.load({}))
    assert "SCHEDD_HOST = htc-login1.campuscluster.illinois.edu" in block
    assert "TRUST_DOMAIN" not in block
    assert condor_config.merge("", block) == block
    own = "# mine\nA = 1"
    merged = condor_config.merge(own, block)
    assert merged == f"{own}\n\n{block}"
    assert condor_config.merge(merged + "B = 2\n", block) == merged + "B = 2\n"
    other = condor_config.render(settings.load({"schedd": "other.example.edu", "trust-domain": "example.edu"}))
    changed = condor_config.merge(merged + "B = 2\n", other)
    assert changed == f"{own}\n\n{other}B = 2\n"


@pytest.mark.parametrize(
    "value",
    [
        {"schedd": "a\nSCHEDD_HOST = evil"},
        {"collector": "a $(b)"},
        {"trust-domain": "a\\"},
        {"condor-settings": {"A": "1\nB = 2"}},
        {"condor-settings": {"A": "1\\"}},
        {"condor-settings": {"A\nB": "1"}},
        {"condor-settings": {"include": "/etc/passwd |"}},
        {"login-host": "-oProxyCommand=evil"},
        {"user": "-oProxyCommand=evil"},
        {"user": "a b"},
        {"token-name": "../evil"},
        {"token-name": ".hidden"},
        {"port": "0"},
        {"duo": "carrier pigeon"},
        {"host-key": "abc"},
        {"duo-timeout": "soon"},
        {"ssh-options": ("StrictHostKeyChecking=no",)},
        {"ssh-options": ("StrictHostKeyChecking accept-new",)},
        {"ssh-options": ("UserKnownHostsFile=/dev/null",)},
        {"ssh-options": ("-w",)},
    ],
    ids=str,
)
def test_a_value_that_could_do_more_than_it_says_is_refused(defaults, value):
    with pytest.raises(ConfigError):
        condor_config.render(settings.load(value))


def test_the_remote_command_is_quoted_for_the_remote_shell(defaults):
    found = settings.load({"login-host": "login", "user": "me", "port": 2222, "ssh-options": ("ProxyJump=jump",)})
    command = ssh.command_line(found, ["/opt/my tools/fetch", "-name", "a; rm -rf ~", "$(evil)"])
    assert command[-2:] == ["login", "'/opt/my tools/fetch' -name 'a; rm -rf ~' '$(evil)'"]
    assert command[-3] == "--"
    assert "StrictHostKeyChecking=ask" in command
    assert command[command.index("-l") + 1] == "me"
    assert "ProxyJump=jump" in command


def test_an_ssh_that_has_ended_costs_no_wait_and_one_that_hangs_costs_seconds(monkeypatch):
    seconds, slept = itertools.count(), []  # each look at the clock is a second later
    clock = SimpleNamespace(monotonic=lambda: next(seconds), sleep=slept.append)
    monkeypatch.setattr(ssh, "time", clock)
    assert ssh.exit_code(SimpleNamespace(isalive=lambda: False, exitstatus=5)) == 5
    assert not slept
    assert ssh.exit_code(SimpleNamespace(isalive=lambda: True, exitstatus=None)) == 255
    assert 0 < len(slept) < 10


def test_only_a_token_that_ends_and_comes_first_is_in_the_way_of_a_new_one(defaults, tmp_path: Path):
    soon, later = int(time.time()) + 3600, int(time.time()) + 10**7
    for name, iat, exp in (("a-good", 0, later), ("b-ends", soon - 10**6, soon), ("z-ends", soon - 10**6, soon)):
        (tmp_path / name).write_text(jwt(iat=iat, exp=exp) + "\n")
        (tmp_path / name).chmod(0o600)
    asked = settings.load({"token-directory": str(tmp_path), "token-name": "mine", "schedd": "a-good"})
    target = Target(tmp_path / "none/90-htcdaskgateway.conf", "")
    assert [one.path.name for one in upgrade.leftovers(asked, target)] == ["b-ends"]
    assert [one.path.name for one in upgrade.leftovers(asked, target, renew=True)] == ["a-good", "b-ends"]


def test_errors_survive_a_pickle():
    error = pickle.loads(pickle.dumps(LoginError("a", "b", "c\nd")))
    assert str(error) == "a\n  | c\n  | d\n  next: b"
