"""Where the token and the configuration go, and what happens to what was there."""

from __future__ import annotations

import os
import stat

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
    backups = list((account.home / ".condor/backups").iterdir())
    assert [path.name.startswith("htcdaskgateway-2") for path in backups] == [True]
    assert stat.S_IMODE(backups[0].stat().st_mode) == 0o600
    assert "What was there before is kept as" in renewed.stdout
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
    assert "condor_submit is not there" in done.stderr
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


def test_a_broken_token_is_replaced(account, node):
    command = account.command(node.port)
    account.token.parent.mkdir(parents=True, mode=0o700)
    assert account.run(*command).returncode == 0
    text = account.token.read_text()
    os.truncate(account.token, len(text) // 2)
    done = account.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert account.token.read_text().count(".") == 2
