"""Where the token and the configuration go, and what happens to what was there."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import jwt
import pytest


@pytest.fixture
def node(account, login_node):
    found = login_node(method="none")
    account.know(found)
    return found


def test_the_second_run_changes_nothing(account, node, tmp_path):
    command = account.command(node.port)
    first = account.run(*command)
    assert first.returncode == 0, first.stderr
    for path in (account.token, account.configuration):
        assert f"Written: {path}" in first.stdout
    before = {path: path.stat().st_mtime_ns for path in (account.token, account.configuration)}
    files = account.written()
    second = account.run(*command)
    assert second.returncode == 0, second.stderr
    assert "nothing was changed" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert account.written() == files
    assert len(node.commands) == 1, "nobody logs in for nothing"

    renewed = account.run(*command, "--renew")
    assert renewed.returncode == 0, renewed.stderr
    assert "Removed, since the new one works: " in renewed.stdout
    assert list((account.home / ".condor/backups").iterdir()) == [], "no old token lies about"
    assert list(account.token.parent.iterdir()) == [account.token], "HTCondor reads every file there"
    assert f"Unchanged: {account.configuration}" in renewed.stdout


def test_private_whatever_the_umask_and_the_directory_was(account, node):
    account.token.parent.mkdir(parents=True, mode=0o755)
    done = account.run("/bin/sh", "-c", 'umask 000; exec "$@"', "sh", *account.command(node.port))
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(account.token.stat().st_mode) == 0o600
    assert stat.S_IMODE(account.token.parent.stat().st_mode) == 0o700
    assert "is yours alone now" in done.stdout


def test_a_users_own_configuration_is_kept_and_backed_up(account, node):
    own = account.home / "my.conf"
    kept = account.home / "dotfiles.conf"
    kept.write_text("# mine\nSCHEDD_HOST = elsewhere\nEDITOR = vi\n")
    kept.chmod(0o640)
    own.symlink_to(kept)
    done = account.run(*account.command(node.port, "--condor-config", str(own)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert own.read_text().startswith("# mine\nSCHEDD_HOST = elsewhere\nEDITOR = vi\n\n# >>> htcdaskgateway")
    backups = list((account.home / ".condor/backups").iterdir())
    assert [path.read_text() for path in backups] == ["# mine\nSCHEDD_HOST = elsewhere\nEDITOR = vi\n"]
    assert f"kept as {backups[0]}" in done.stdout
    assert f"export CONDOR_CONFIG={own}" in done.stdout, "the tools do not read it by themselves"
    assert not account.configuration.exists()
    assert own.is_symlink()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640

    account.settings["CONDOR_CONFIG"] = str(own)
    again = account.run(*account.command(node.port, "--condor-config", str(own)))
    assert again.returncode == 0, again.stderr
    assert "nothing was changed" in again.stdout
    assert "export" not in again.stdout


def test_without_a_conda_environment_it_is_the_users_own_file(account, node, condor_pool):
    account.settings["CONDOR_BIN_DIR"] = str(condor_pool.installation.bin)
    done = account.run(*account.command(node.port))
    assert done.returncode == 0, done.stdout + done.stderr
    own = account.home / ".condor/user_config"
    assert "SEC_TOKEN_DIRECTORY = $ENV(HOME)/.condor/tokens.d" in own.read_text()
    assert f"export CONDOR_CONFIG={own}" in done.stdout
    queue = account.run(
        "/usr/bin/env", f"CONDOR_CONFIG={own}", str(condor_pool.installation.bin / "condor_q"), "-totals"
    )
    assert queue.returncode == 0, queue.stderr


def test_without_tools_nobody_is_asked_anything(account, node):
    account.settings["CONDOR_BIN_DIR"] = str(account.home)
    done = account.run(*account.command(node.port))
    assert done.returncode == 1
    assert "there is no condor_submit" in done.stderr
    assert "conda install" in done.stderr
    assert node.commands == []
    assert account.written() == []


def test_a_schedd_that_refuses_the_token_is_no_success(account, node, login_node):
    stranger = login_node(method="none", command="condor_token_create -identity eve@other.test -lifetime 3600")
    account.know(stranger)
    done = account.run(*account.command(stranger.port))
    assert done.returncode == 1, done.stdout
    assert "the queue cannot be used" in done.stdout
    assert "FAIL  schedd" in done.stdout
    assert "condor_q works" not in done.stdout


OLD_NAME = "an-old-login1.example.edu"
"""As 1.0.4 named its token, which sorts before ours."""
OLD_CONFIGURATION = """
    CONDOR_HOST=old.example.edu
    COLLECTOR_HOST=old.example.edu
    SEC_CLIENT_AUTHENTICATION_METHODS=FS,FS_REMOTE,IDTOKENS
    SCHEDD_HOST=old.example.edu
    """


def expire(path: Path) -> None:
    """Make the token in a file one that has expired a minute ago; its signature is of no account here."""
    token = path.read_text().strip()
    claims = jwt.decode(token, options={"verify_signature": False})
    claims["exp"] = int(time.time()) - 60
    path.write_text(jwt.encode(claims, "k" * 32, headers=jwt.get_unverified_header(token)))


def test_an_upgrade_in_place_finds_what_is_in_the_way_before_the_login(account, node, person):
    command = account.command(node.port)
    first = account.run(*command, "--token-name", OLD_NAME)
    assert first.returncode == 0, first.stdout + first.stderr
    old = account.token.with_name(OLD_NAME)
    whole = account.conda / "etc/condor/condor_config"
    whole.write_text(OLD_CONFIGURATION)
    expire(old)
    node.commands.clear()

    refused = account.run(*command)
    assert refused.returncode == 1
    assert f"In the way: {old}" in refused.stdout
    assert f"In the way: {whole}" in refused.stdout
    assert "move it away by hand" in refused.stderr
    assert node.commands == [], "nobody logs in before it is out of the way"

    one = person(node.port)
    one.sees("Move it to .*backups")
    one.types("yes")
    code, seen = one.leaves()
    assert code == 0, seen
    assert not old.exists()
    assert account.condor("condor_q").returncode == 0
    kept = [path.read_text() for path in (account.home / ".condor/backups").iterdir()]
    assert OLD_CONFIGURATION in kept


def test_a_good_token_of_before_needs_no_login(account, node):
    command = account.command(node.port)
    first = account.run(*command, "--token-name", OLD_NAME)
    assert first.returncode == 0, first.stdout + first.stderr
    account.configuration.unlink()
    again = account.run(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "no login is needed" in again.stdout
    assert len(node.commands) == 1
    assert account.condor("condor_q").returncode == 0


def test_a_directory_for_other_things_keeps_its_mode(account, node):
    done = account.run(*account.command(node.port, "--token-directory", "~"))
    assert done.returncode == 1
    assert "token-directory" in done.stderr
    assert node.commands == []
    other = account.home / "other"
    (other / "things").mkdir(parents=True)
    other.chmod(0o755)
    done = account.run(*account.command(node.port, "--token-directory", str(other)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert stat.S_IMODE(other.stat().st_mode) == 0o755


def test_the_line_to_type_is_quoted_and_done_is_not_said_before_it_is_typed(account, node):
    own = account.home / "my $(conf) file"
    done = account.run(*account.command(node.port, "--condor-config", str(own)))
    assert f"export CONDOR_CONFIG='{own}'" in done.stdout
    assert "Done: with the line above," in done.stdout
    account.settings["CONDOR_CONFIG"] = str(account.conda / "etc/condor/condor_config")
    account.settings["PATH"] = f"{account.conda / 'bin'}:/usr/bin:/bin"
    done = account.run(*account.command(node.port))
    assert "export" not in done.stdout
    assert "Done: condor_q works." in done.stdout


def test_a_broken_token_is_replaced(account, node):
    command = account.command(node.port)
    account.token.parent.mkdir(parents=True, mode=0o700)
    assert account.run(*command).returncode == 0
    text = account.token.read_text()
    os.truncate(account.token, len(text) // 2)
    done = account.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert account.token.read_text().count(".") == 2
