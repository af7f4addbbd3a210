"""Configuration: defaults, dask's own ways, and a .env file."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
from pathlib import Path

import dask.config
import pytest
from dask_gateway.auth import BasicAuth, JupyterHubAuth

from htcdaskgateway import HTCGateway, WorkerSpec, config
from htcdaskgateway.errors import ConfigError

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("bare")]

ADDRESS = "http://gateway.example.org"


def password(**keywords):
    with HTCGateway(ADDRESS, **keywords) as gateway:
        return gateway.auth.password


@pytest.mark.parametrize(
    ("value", "expected"), [(5, 5), ("60s", 60), ("2h", 7200), ("1d", 86400), ("1.5", 1.5), ("100ms", 0.1)]
)
def test_a_time_is_a_number_of_seconds_or_a_text(value, expected):
    assert config.parse_seconds(value, "x") == expected


@pytest.mark.parametrize("value", [0, -1, "0s", "-5m", "", "soon", None, True, [], float("nan"), float("inf"), {}])
def test_what_is_no_time_is_refused_by_name(value):
    with pytest.raises(ConfigError, match=r"htcdaskgateway\.x=.*write 60"):
        config.parse_seconds(value, "htcdaskgateway.x")


def test_the_users_configuration_goes_before_the_defaults(tmp_path):
    (tmp_path / "mine.yaml").write_text("htcdaskgateway:\n  worker:\n    cpus: 7\n")
    environment = {**os.environ, "DASK_CONFIG": str(tmp_path / "mine.yaml")}
    program = "from htcdaskgateway import WorkerSpec as W; s = W.from_keywords(); print(s.cpus, s.memory_mib)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["7", "32768"]


def test_the_environment_goes_before_the_users_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("htcdaskgateway:\n  worker:\n    cpus: 7\n")
    environment = {
        **os.environ,
        "DASK_CONFIG": str(tmp_path / "mine.yaml"),
        "DASK_HTCDASKGATEWAY__WORKER__CPUS": "9",
        "DASK_HTCDASKGATEWAY__WORKER__JOB_EXTRA_DIRECTIVES": "{'accounting_group': 'physics'}",
    }
    program = (
        "from htcdaskgateway import WorkerSpec as W; s = W.from_keywords(); print(s.cpus, s.job_extra_directives)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "9 {'accounting_group': 'physics'}\n"


def test_a_dotenv_file_above_the_working_directory_is_honoured(monkeypatch):
    Path(".env").write_text('DASK_GATEWAY_PASSWORD="from the file"\n')
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert password() == "from the file"
    assert os.environ["DASK_GATEWAY_PASSWORD"] == "from the file"


def test_the_environment_wins_over_a_dotenv_file(monkeypatch):
    Path(".env").write_text("DASK_GATEWAY_PASSWORD=file\nHTCDASK_STAGEDIR=/file\n")
    monkeypatch.setenv("DASK_GATEWAY_PASSWORD", "environment")
    assert password() == "environment"
    assert os.environ["HTCDASK_STAGEDIR"] == "/file"


def test_dasks_variables_in_a_dotenv_file_are_honoured():
    Path(".env").write_text(
        "DASK_HTCDASKGATEWAY__WORKER__CPUS=3\nDASK_GATEWAY__ADDRESS=http://other.example.org\n"
        "HTCDASK_STAGEDIR=/from/the/file\nNOT_A_SETTING\n"
    )
    with HTCGateway() as gateway:
        assert gateway.address == "http://other.example.org"
    assert WorkerSpec.from_keywords().cpus == 3
    assert os.environ["HTCDASK_STAGEDIR"] == "/from/the/file"


def test_a_dotenv_file_wins_over_a_yaml_file(tmp_path, monkeypatch):
    Path(".env").write_text("DASK_HTCDASKGATEWAY__WORKER__CPUS=3\n")
    (tmp_path / "dask.yaml").write_text("htcdaskgateway:\n  worker:\n    cpus: 6\n    memory: 7GB\n")
    monkeypatch.setattr(dask.config, "paths", [str(tmp_path)])
    dask.config.refresh(paths=[str(tmp_path)], env={})
    assert WorkerSpec.from_keywords().cpus == 6
    config.load_dotenv()
    spec = WorkerSpec.from_keywords()
    assert (spec.cpus, spec.memory) == (3, 7 * 2**30)


def test_what_a_program_has_set_wins_over_a_dotenv_file():
    Path(".env").write_text("DASK_HTCDASKGATEWAY__WORKER__CPUS=3\n")
    with dask.config.set({"htcdaskgateway.worker.cpus": 5}):
        config.load_dotenv()
        assert WorkerSpec.from_keywords().cpus == 5


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another account")
def test_a_dotenv_file_of_somebody_else_is_not_read(caplog):
    Path(".env").write_text("DASK_GATEWAY_PASSWORD=theirs\n")
    os.chown(".env", 33, 33)
    config.load_dotenv()
    assert "DASK_GATEWAY_PASSWORD" not in os.environ
    assert ".env is not read: it belongs to somebody else" in caplog.text


def test_a_dotenv_file_that_others_may_write_is_not_read(caplog):
    Path(".env").write_text("DASK_GATEWAY_PASSWORD=whose\n")
    Path(".env").chmod(0o646)
    config.load_dotenv()
    assert "DASK_GATEWAY_PASSWORD" not in os.environ
    assert "chmod go-w" in caplog.text


def test_a_dotenv_file_that_the_users_private_group_may_write_is_read():
    user = pwd.getpwuid(os.geteuid())
    if grp.getgrgid(user.pw_gid).gr_name != user.pw_name:
        pytest.skip("this account has no group of its own")
    Path(".env").write_text("DASK_GATEWAY_PASSWORD=own\n")
    Path(".env").chmod(0o664)
    config.load_dotenv()
    assert os.environ["DASK_GATEWAY_PASSWORD"] == "own"


def test_a_pipe_in_the_place_of_a_dotenv_file_stops_nobody():
    os.mkfifo(".env", 0o666)
    config.load_dotenv()


@pytest.mark.parametrize(
    "line",
    [
        "LD_PRELOAD=/evil.so",
        "PATH_TO=/evil",
        "CONDOR_BIN_DIR=/evil",
        "SSH_ASKPASS=/evil",
        "_CONDOR_LOCAL_CONFIG_FILE=/evil |",
        "DASK_CONFIG=/evil",
        "DASK_GATEWAY__AUTH__TYPE=evil.Auth",
        "DASK_HTCDASKGATEWAY__CONDOR__BIN_DIR=/evil",
        "DASK_HTCDASKGATEWAY__CONDOR={'bin-dir': '/evil'}",
        "DASK_HTCDASKGATEWAY__SETUP__SSH_OPTIONS=['ProxyCommand=evil']",
        "DASK_HTCDASKGATEWAY__SETUP={'ssh_options': ['ProxyCommand=evil']}",
        "DASK_HTCDASKGATEWAY__setup__token_command=evil",
        "DASK_HTCDASKGATEWAY__TEMPLATE_DIRECTORY=/evil",
        "DASK_HTCDASKGATEWAY__WORKER__JOB_SCRIPT_PROLOGUE=['evil']",
        "DASK_HTCDASKGATEWAY__WORKER__WORKER_EXTRA_ARGS=['--preload', '/evil.py']",
        "DASK_HTCDASKGATEWAY__WORKER__ENVIRONMENT={'LD_PRELOAD': '/evil.so'}",
        "DASK_HTCDASKGATEWAY__WORKER__CONTAINER_IMAGE=docker://evil/image",
        "CONDOR_CONFIG=/evil",
        "CONDOR_CONFIG=evil",
        "CONDOR_CONFIG=/etc/../evil",
    ],
)
def test_no_dotenv_file_says_which_program_runs(line, caplog):
    Path(".env").write_text(f"{line}\nHTCDASK_STAGEDIR=/mine\n")
    before = dict(os.environ)
    config.load_dotenv()
    assert dict(os.environ) == {**before, "HTCDASK_STAGEDIR": "/mine"}
    assert "evil" not in str(dask.config.config)
    assert ("names a program" in caplog.text) == line.startswith(("CONDOR_", "DASK_GATEWAY", "DASK_HTCDASK"))


@pytest.mark.parametrize("place", ["/etc/condor", "~/.condor", f"{sys.prefix}/etc/condor"])
def test_a_dotenv_file_names_htcondors_configuration_where_that_is_usual(place):
    Path(".env").write_text(f"CONDOR_CONFIG={place}/condor_config\n")
    config.load_dotenv()
    assert os.environ["CONDOR_CONFIG"] == f"{place}/condor_config"


def test_without_a_dotenv_file_nothing_changes():
    before = dict(os.environ)
    config.load_dotenv()
    assert dict(os.environ) == before


def test_a_password_that_was_given_wins(monkeypatch):
    monkeypatch.setenv("DASK_GATEWAY_PASSWORD", "environment")
    assert password(auth=BasicAuth(username=None, password="given")) == "given"


@pytest.mark.parametrize("auth", [None, "basic", BasicAuth("me"), BasicAuth(username="me", password="")])
def test_basic_auth_without_a_password_takes_it_from_the_environment(monkeypatch, auth):
    monkeypatch.setenv("DASK_GATEWAY_PASSWORD", "environment")
    with HTCGateway(ADDRESS, auth=auth) as gateway:
        assert gateway.auth.password == "environment"
        assert gateway.auth.username == (auth.username if isinstance(auth, BasicAuth) else BasicAuth().username)


def test_another_authentication_is_left_alone(monkeypatch):
    monkeypatch.setenv("DASK_GATEWAY_PASSWORD", "environment")
    auth = JupyterHubAuth(api_token="token")
    with HTCGateway(ADDRESS, auth=auth) as gateway:
        assert gateway.auth is auth


def test_no_address_at_all_is_told():
    with pytest.raises(ValueError, match="address"):
        HTCGateway()
