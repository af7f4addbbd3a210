"""Local code takes the place of what was there in one step, in the directory that the workers of a job share."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from htcdaskgateway.remote import packages_preload


def archive(key: str, **modules: str) -> bytes:
    """Return local code as it is sent."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in modules.items():
            member = tarfile.TarInfo(f"local-{key}/{name}.py")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def job(tmp_path, monkeypatch):
    """The directory of a job."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(job: Path) -> list[str]:
    return sorted(path.name for path in job.iterdir() if path.name.startswith("."))


def test_new_code_takes_the_place_of_the_old_and_who_runs_the_old_keeps_it(job):
    packages_preload.install(archive("one", beside="VERSION = 1", gone=""), "one")
    before = Path("local").resolve()
    packages_preload.install(archive("two", beside="VERSION = 2"), "two")
    assert [path.name for path in Path("local").iterdir()] == ["beside.py"]
    assert Path("local/beside.py").read_text() == "VERSION = 2"
    assert (before / "beside.py").read_text() == "VERSION = 1"
    # Back again, which needs no archive.
    packages_preload.install(b"", "one")
    assert Path("local").resolve() == before
    assert left(job) == []


def test_code_that_comes_damaged_leaves_what_was_there(job):
    packages_preload.install(archive("one", beside="VERSION = 1"), "one")
    with pytest.raises((OSError, EOFError, tarfile.TarError)):
        packages_preload.install(archive("two", beside="VERSION = 2" * 1000)[:60], "two")
    assert Path("local/beside.py").read_text() == "VERSION = 1"
    assert not Path("local-two").exists()


def test_workers_of_a_job_that_take_code_at_once_all_have_it(job):
    Path("local.tar.gz").write_bytes(archive("one", **{f"module{n}": f"N = {n}" for n in range(200)}))
    command = [sys.executable, packages_preload.__file__, "local.tar.gz", "of none"]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4, said
    assert Path("local").readlink() == Path("local-one")
    assert len(list(Path("local").iterdir())) == 200
    assert left(job) == []


def test_where_there_is_no_local_code_there_is_a_directory_without_any(job):
    Path("local.tar.gz").write_bytes(archive("none"))
    packages_preload.unpack("local.tar.gz", "of none")
    assert Path("local").readlink() == Path("local-of none")
    assert list(Path("local").iterdir()) == []
