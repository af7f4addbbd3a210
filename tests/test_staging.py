"""The staging directory: private from the start, written in one step, swept when nobody needs it."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import dask.config
import pytest

from htcdaskgateway import WorkerSpec
from htcdaskgateway.errors import ConfigError, StagingError
from htcdaskgateway.worker import staging
from htcdaskgateway.worker.job import worker_command

ADDRESS = "gateway://proxy.example.org:8786/c1"

pytestmark = pytest.mark.usefixtures("bare")


@pytest.fixture
def root(stage):
    return stage


def staged(cluster="c1", **keywords):
    return staging.Staging(cluster, WorkerSpec.from_keywords(**keywords))


def written(cluster="c1", **keywords):
    made = staged(cluster, **keywords)
    made.write(ADDRESS, "CERTIFICATE", "KEY")
    return made


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def test_the_root_is_named_by_the_environment_then_configured_then_in_the_home(bare, monkeypatch, tmp_path):
    assert staging.staging_root() == bare / "htcdask"
    with dask.config.set({"htcdaskgateway.staging-directory": "~/elsewhere"}):
        assert staging.staging_root() == bare / "elsewhere"
        monkeypatch.setenv("HTCDASK_STAGEDIR", "relative")
        assert staging.staging_root() == tmp_path / "work" / "relative"


def site_homes(tmp_path):
    return dask.config.set({"htcdaskgateway.staging-directory": [f"{tmp_path}/u/$USER/htcdask", "~/htcdask"]})


def test_the_sites_directory_of_the_user_goes_before_the_home(bare, monkeypatch, tmp_path):
    monkeypatch.setenv("USER", "alice")
    with site_homes(tmp_path):
        assert staging.staging_root() == bare / "htcdask", "it is not there"
        (tmp_path / "u/alice").mkdir(parents=True)
        assert staging.staging_root() == tmp_path / "u/alice/htcdask"
        for other in ("alice/../alice", "/etc"):
            monkeypatch.setenv("USER", other)
            assert staging.staging_root() == bare / "htcdask", other
    with dask.config.set({"htcdaskgateway.staging-directory": "~/elsewhere"}):
        assert staging.staging_root() == bare / "elsewhere"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another account")
def test_the_sites_directory_of_somebody_else_is_not_taken(bare, monkeypatch, tmp_path):
    monkeypatch.setenv("USER", "alice")
    (tmp_path / "u/alice").mkdir(parents=True)
    os.chown(tmp_path / "u/alice", 33, 33)
    with site_homes(tmp_path):
        assert staging.staging_root() == bare / "htcdask"


def test_a_path_has_the_users_name_number_and_home_filled_in(bare, monkeypatch, tmp_path):
    monkeypatch.setenv("USER", "alice")
    monkeypatch.delenv("UID", raising=False)
    for given, found in (
        ("/scratch/$USER/x", Path("/scratch/alice/x")),
        ("/run/user/${UID}", Path(f"/run/user/{os.getuid()}")),
        ("~/x", bare / "x"),
    ):
        with dask.config.set({"htcdaskgateway.staging-directory": given}):
            assert staging.staging_root() == found
        spec = WorkerSpec.from_keywords(log_directory=given)
        assert staging.Staging("c1", spec).logs == found / "c1"
    monkeypatch.setenv("HTCDASK_STAGEDIR", "/scratch/$NOT_SET_AT_ALL")
    with pytest.raises(ConfigError, match="the variable NOT_SET_AT_ALL is not set"):
        staging.staging_root()
    monkeypatch.delenv("HTCDASK_STAGEDIR")
    monkeypatch.delenv("USER")
    monkeypatch.setenv("LOGNAME", "bob")
    with dask.config.set({"htcdaskgateway.staging-directory": "/scratch/$USER"}):
        assert staging.staging_root() == Path("/scratch/bob")


def test_everything_is_private_whatever_the_umask(root, umask):
    made = written()
    assert {path.name: oct(mode(path)) for path in [made.directory, *made.directory.rglob("*")]} == {
        "c1": "0o700",
        "credentials": "0o700",
        "dask.crt": "0o600",
        "dask.pem": "0o600",
        "logs": "0o700",
        "worker.sub": "0o600",
        "worker.sh": "0o700",
        "worker_preload.py": "0o600",
        "worker_start.py": "0o600",
        "gateway": "0o600",
    }


def test_credentials_are_private_from_the_moment_they_exist(root, monkeypatch):
    """Each file is looked at when it is opened, before anything is in it."""
    seen = {}
    really = os.fdopen

    def looked_at(descriptor, *args, **kwargs):
        seen[Path(f"/proc/self/fd/{descriptor}").readlink()] = stat.S_IMODE(os.fstat(descriptor).st_mode)
        return really(descriptor, *args, **kwargs)

    monkeypatch.setattr(os, "fdopen", looked_at)
    before = os.umask(0)
    try:
        written()
    finally:
        os.umask(before)
    assert len(seen) == 7
    assert set(seen.values()) == {0o600}


def test_writing_again_changes_nothing(root):
    made = written()

    def files():  # without the time of the last reading, which may have gone on
        found = {path: path.stat() for path in made.directory.rglob("*") if path.is_file()}
        return {path: (stat.st_ino, stat.st_mode, stat.st_mtime_ns) for path, stat in found.items()}

    before = files()
    written()
    assert files() == before


def test_a_file_is_replaced_in_one_step(root):
    made = written()
    script = made.directory / "worker.sh"
    with script.open() as before:
        written(python="/another/python")
        assert "/another/python" not in before.read()  # a job that starts at this moment reads the whole old one
    assert "/another/python" in script.read_text()
    assert not list(made.directory.rglob(".*"))


def test_what_was_opened_to_others_is_closed_again(root):
    made = written()
    (made.directory / "credentials" / "dask.pem").chmod(0o644)
    (made.directory / "credentials").chmod(0o755)
    written()
    assert mode(made.directory / "credentials" / "dask.pem") == 0o600
    assert mode(made.directory / "credentials") == 0o700


@pytest.mark.parametrize("name", ["c1", "c1/credentials"])
def test_a_symlink_in_the_place_of_a_directory_is_refused(root, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (root / name).parent.mkdir(parents=True)
    (root / name).symlink_to(elsewhere)
    with pytest.raises(StagingError, match="does not belong to you"):
        written()
    assert not list(elsewhere.iterdir())
    assert mode(elsewhere) == 0o755


def test_a_symlink_in_the_place_of_a_key_is_replaced_not_followed(root, tmp_path):
    made = written()
    target = tmp_path / "target"
    target.write_text("untouched")
    key = made.directory / "credentials" / "dask.pem"
    key.unlink()
    key.symlink_to(target)
    written()
    assert (target.read_text(), key.read_text(), key.is_symlink()) == ("untouched", "KEY", False)


def test_a_failed_write_leaves_the_old_file_and_no_other(root, monkeypatch):
    made = written()
    before = (made.directory / "worker.sh").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        with pytest.raises(StagingError, match=r"No space left on device.*HTCDASK_STAGEDIR"):
            written(python="/another/python")
    assert (made.directory / "worker.sh").read_text() == before
    assert not list(made.directory.rglob(".*"))


def test_a_root_that_cannot_be_written_is_told_with_the_way_out(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HTCDASK_STAGEDIR", str(tmp_path / "file" / "below"))
    with pytest.raises(StagingError, match=rf"{tmp_path}/file/below.*Set HTCDASK_STAGEDIR"):
        staging.check_root()


def test_looking_whether_the_root_can_be_written_leaves_nothing(root):
    staging.check_root()
    assert not list(root.iterdir())


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\nb", "a b", "$(x)", "x" * 200, "-x", "a\n"])
def test_a_servers_name_for_a_cluster_cannot_leave_the_root(root, name):
    with pytest.raises(ConfigError, match="cannot be the name of a Dask Gateway cluster"):
        staged(name)
    with pytest.raises(ConfigError):
        staging.remove_credentials(name)
    with pytest.raises(ConfigError):
        staging.sweep(name)


def test_logs_may_lie_elsewhere(root, tmp_path):
    made = written(log_directory=str(tmp_path / "logs here"))
    assert made.logs == tmp_path / "logs here" / "c1"
    assert made.logs.is_dir()
    assert f"output = {made.logs}/worker-" in made.description.read_text()


def test_credentials_go_and_the_rest_stays_for_reading(root):
    made = written()
    staging.remove_credentials("c1")
    assert sorted(path.name for path in made.directory.iterdir()) == [
        "gateway",
        "logs",
        "worker.sh",
        "worker.sub",
        "worker_preload.py",
        "worker_start.py",
    ]
    staging.remove_credentials("c1")  # and a second time is nothing


def test_each_file_that_a_job_needs_is_missed(root):
    made = written()
    made.check()
    needed = {path.name for path in made.directory.iterdir() if path.is_file()} - {"gateway"}
    for name in (*needed, "credentials/dask.crt", "credentials/dask.pem"):
        text = (made.directory / name).read_text()
        (made.directory / name).unlink()
        with pytest.raises(StagingError, match=rf"{name} is gone. .*connect\('c1'\)"):
            made.check()
        (made.directory / name).write_text(text)
    made.check()


def test_no_credentials_are_removed_through_a_symlink(root, tmp_path):
    made = written()
    away = tmp_path / "away"
    (made.directory / "credentials").rename(away)
    (made.directory / "credentials").symlink_to(away)
    staging.remove_credentials("c1")
    assert (away / "dask.pem").exists()


def test_only_what_a_cluster_left_counts_as_left_over(root):
    assert staging.leftovers(ADDRESS) == []
    written("c2")
    written("c1")
    (root / "notes").mkdir()
    (root / "c3").symlink_to(root / "c1")
    assert staging.leftovers(ADDRESS) == ["c1", "c2"]


def test_the_clusters_of_another_gateway_are_not_left_over(root):
    """This gateway does not know them, and a cluster that is scaled to 0 has no job that speaks for it."""
    written("c1")
    staged("c2").write("gateway://other.example.org:8786/c2", "CERTIFICATE", "KEY")
    assert staging.leftovers(ADDRESS) == ["c1"]


def test_the_sweep_takes_credentials_at_once_and_logs_after_a_time(root):
    made = written()
    staging.sweep("c1")
    assert not (made.directory / "credentials").exists()
    assert made.description.exists()
    then = time.time() - 8 * 24 * 3600
    os.utime(made.directory, (then, then))
    staging.sweep("c1")
    assert not made.directory.exists()
    staging.sweep("c1")  # another client may have been quicker


def test_the_command_of_a_worker_leads_to_the_scheduler_behind_the_proxy(root):
    command = worker_command("c1", WorkerSpec.from_keywords(cpus=3, memory="2GB"), ADDRESS)
    assert command[:3] == [sys.executable, "worker_start.py", "tls://proxy.example.org:8786"]
    options = dict(zip(command[3::2], command[4::2], strict=False))
    assert options["--scheduler-sni"] == "daskgateway-c1"
    assert (options["--nthreads"], options["--memory-limit"]) == ("3", str(2 * 2**30))
    assert options["--worker-port"] == "10000:10070"
    spec = WorkerSpec.from_keywords(scheduler_proxy="inside:9000")
    assert worker_command("c1", spec, ADDRESS)[2] == "tls://inside:9000"


@pytest.mark.parametrize("value", [5, ["/a", 5], ["", "/a"], {"path": "/a"}])
def test_a_configured_directory_that_is_no_path_is_told_before_anything_is_written(bare, value):
    settings = {"htcdaskgateway.staging-directory": value}
    with dask.config.set(settings), pytest.raises(ConfigError, match="neither a path nor a list of paths"):
        staging.staging_root()


def test_the_schedd_of_a_cluster_whose_scheduler_is_gone_is_still_known(root):
    assert staging.noted_schedd("c1") == ""
    staged().write(ADDRESS, "CERTIFICATE", "KEY")
    staging.note_schedd("c1", "schedd@node.example.org")
    assert staging.noted_schedd("c1") == "schedd@node.example.org"
    (root / "c1" / "schedd").write_bytes(b"\xff\n")
    assert staging.noted_schedd("c1") == "", "a file that cannot be read is as good as none"
