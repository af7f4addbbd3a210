"""Environments to be sent, and programs that run in them as a notebook does."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from importlib import resources
from pathlib import Path

import dask.config
import pytest

from htcdaskgateway.local import LocalSystemError
from htcdaskgateway.local.apptainer import Apptainer
from htcdaskgateway.local.processes import one_uid_namespace, run
from htcdaskgateway.packages import packing
from htcdaskgateway.packages.sending import PACKAGES_FILES, settings
from htcdaskgateway.worker.job import EXIT_NODE, EXIT_RESEND, EXIT_UNPACK

TOP = Path(__file__).parent.parent.parent
SITE = next(path for path in sys.path if path.endswith("site-packages"))
EXITS = {"EXIT_RESEND": EXIT_RESEND, "EXIT_NODE": EXIT_NODE, "EXIT_UNPACK": EXIT_UNPACK}


# fmt: off
PROGRAMS = [
    "cat", "cp", "cut", "date", "df", "du", "env", "flock", "getconf", "gzip", "id", "ln", "ls", "mkdir", "mkfifo",
    "mv", "rm", "rmdir", "sed", "sh", "sha256sum", "tail", "tar", "touch", "uname",
]
# fmt: on


def another_root(root):
    """Return what begins a command in another root directory, with the processes in /proc where that can be."""
    chroot = [shutil.which("chroot"), root]
    script = 'mount -t proc proc "$2/proc" && exec "$@"'
    with_proc = [shutil.which("unshare"), "--mount", "/bin/sh", "-c", script, "sh", *chroot]
    done = subprocess.run([*with_proc, "/bin/sh", "-c", "exit 0"], capture_output=True, timeout=20)
    return chroot if done.returncode else with_proc


class Notebook:
    """A directory with a module beside the notebook, and an environment in which something can be installed.

    It has the packages of the tests' own environment, and takes this checkout from ``PYTHONPATH``.
    """

    def __init__(self, directory, cache):
        self.directory = directory / "notebook"
        self.directory.mkdir()
        (self.directory / "beside.py").write_text("VERSION = 1\ndef times(x): return 2 * x\n")
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(TOP)}
        venv = directory / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
        self.python = venv / "bin" / "python"
        self.site = next(venv.glob("lib/python3*/site-packages"))
        # With the line of coverage's own, which acts only where it is asked to.
        noting = "".join(path.read_text() for path in Path(SITE).glob("*_coverage.pth"))
        (self.site / "tests.pth").write_text(f"{SITE}\n{noting}\n")

    def install(self, name, text):
        """Install a package."""
        (self.site / name).mkdir()
        (self.site / name / "__init__.py").write_text(text)

    def run(self, code, python=None, **environment):
        """Run a program in the notebook's directory; return what it printed at last, read as JSON."""
        path = self.directory / "program.py"
        path.write_text(textwrap.dedent(code))
        done = subprocess.run(
            [python or self.python, path],
            cwd=self.directory,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])


class Environment:
    """A small environment, packed anew after each change."""

    def __init__(self, directory, maker=()):
        self.path = directory / "small"
        maker = maker or [sys.executable, "-m", "venv", "--without-pip"]
        subprocess.run([*maker, self.path], check=True, timeout=60, capture_output=True)
        self.site = next(self.path.glob("lib/python3*/site-packages"))
        self.install("pack_me", "VALUE = 'first'\n")

    def install(self, name, text):
        (self.site / name).mkdir(exist_ok=True)
        (self.site / name / "__init__.py").write_text(text)

    def pack(self):
        return packing.pack(str(self.path))


class Node:
    """A machine: a directory for each job, and one that may keep packages."""

    look = "import sys, pack_me; print(sys.prefix, pack_me.VALUE, sep='|')"

    def __init__(self, directory):
        self.directory = directory
        self.shared = directory / "shared"
        self.shared.mkdir()
        self.cache = self.shared / f"htcdask-{os.getuid()}"
        self.jobs = 0

    def job(self, packed, *, base=True, path=None, code=None, cached=True, owner=None, size="20GB", root=None):
        """Start what a job does: its scratch directory, and the running process; `root`: another root directory."""
        self.jobs += 1
        scratch = self.directory / f"job-{self.jobs}"
        scratch.mkdir()
        for name, place in packed.archives.items():
            if base or name in packed.with_each_job:
                shutil.copyfile(place, scratch / name)
        for name in PACKAGES_FILES:
            text = resources.files("htcdaskgateway.remote").joinpath(name).read_text()
            (scratch / name).write_text(text)
        configured = {"packages.node-directories": [str(self.shared)] if cached else [], "packages.node-size": size}
        with dask.config.set({f"htcdaskgateway.{name}": value for name, value in configured.items()}):
            (scratch / "packages.conf").write_text(settings(packed, **EXITS))
        (scratch / ".job.ad").write_text(f'Owner = "{owner or pwd.getpwuid(os.getuid()).pw_name}"\n')
        (scratch / ".machine.ad").write_text('Machine = "node.example.org"\n')
        here = shlex.quote(f"/{scratch.relative_to(root)}" if root else str(scratch))
        script = f'ad=.job.ad\n. ./packages_node.sh\nexec "$packages_python" -c {shlex.quote(code or self.look)}'
        program = subprocess.Popen(
            [*(another_root(root) if root else []), "/bin/sh", "-c", f"cd {here}\n{script}"],
            cwd=scratch,
            env={"PATH": f"{path}:/usr/bin:/bin" if path else "/usr/local/bin:/usr/bin:/bin", "HOME": str(scratch)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return scratch, program

    def run(self, packed, **options):
        """Return a job's exit code, what it printed, and what was said of the packages."""
        _, program = self.job(packed, **options)
        out, err = program.communicate(timeout=120)
        return program.returncode, out.strip(), err


@pytest.fixture(scope="session")
def packed_cache(tmp_path_factory):
    """One cache of what was packed, for all tests of a process: the first look at an environment takes seconds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def desk(tmp_path, packed_cache):
    """A notebook that asks for no cluster."""
    return Notebook(tmp_path, packed_cache)


@pytest.fixture
def notebook(system, desk):
    return desk


@pytest.fixture
def shared(tmp_path):
    """A directory of the execute nodes that may keep packages."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    directory = tmp_path_factory.mktemp("environment")
    with pytest.MonkeyPatch.context() as patch:  # until it is made: the pool of all has its own cache
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        made = Environment(directory)
    return made


@pytest.fixture
def packed(small, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(small.path.parent / "cache"))
    small.install("pack_me", "VALUE = 'first'\n")
    return small.pack()


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


@pytest.fixture(scope="session")
def environment():
    """Return the maker of a small environment: a directory, and the command line that makes it."""
    return Environment


@pytest.fixture(scope="session")
def make_node():
    return Node


@pytest.fixture
def bare_root(tmp_path, make_bare_root):
    if os.geteuid() != 0:
        pytest.skip("only root can have another root directory")
    return make_bare_root(tmp_path / "root")


@pytest.fixture
def with_proc(bare_root):
    """For what is found from where it lies itself, which /proc tells."""
    if another_root(bare_root)[0] == shutil.which("chroot"):
        pytest.skip("another root directory cannot have /proc here")


@pytest.fixture
def bare_node(bare_root, make_node):
    return make_node(bare_root / "tmp")


@pytest.fixture(scope="session")
def make_bare_root():
    """Return the maker of a root directory with a shell, tar, gzip and what they need, and no Python."""
    return _bare_root


def _bare_root(root):
    for place in ("bin", "tmp", "dev", "etc", "proc", "usr"):
        (root / place).mkdir(parents=True)
    (root / "usr" / "bin").symlink_to("../bin")
    (root / "dev" / "null").touch()
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    for name in PROGRAMS:
        source = shutil.which(name)
        shutil.copy(os.path.realpath(source), root / "bin" / name)
        for library in re.findall(
            r"(/\S+) \(0x", subprocess.run(["ldd", source], capture_output=True, text=True, timeout=20).stdout
        ):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copy(library, target)
    # What else belongs to glibc; a Python asks for it, and a node always has it.
    for name in ("libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1"):
        libc = next(root.rglob("libc.so.6"))
        source = Path(*("/", libc.relative_to(root).parent, name))
        if source.exists() and not (libc.parent / name).exists():
            shutil.copy(source, libc.parent / name)
    return root


@pytest.fixture(scope="session")
def tools():
    """Where Apptainer and mksquashfs are."""
    try:
        directory = Apptainer.find_or_install().program.parent
    except LocalSystemError as error:
        pytest.skip(f"no Apptainer here: {error}")
    path = f"{os.environ['PATH']}:{directory}"
    if shutil.which("mksquashfs", path=path) is None:
        pytest.skip("no mksquashfs here")
    return path


@pytest.fixture(scope="session")
def bare_image(tools, tmp_path_factory, make_bare_root):
    """An image without Python: a shell, and what belongs to glibc."""
    root = make_bare_root(tmp_path_factory.mktemp("image") / "root")
    for name in ("proc", "sys", "var/tmp", "root", "home"):
        (root / name).mkdir(parents=True, exist_ok=True)
    program = shutil.which("apptainer", path=tools)
    done = run(one_uid_namespace([program, "--silent", "exec", "--no-home", root, "sh", "-c", "true"]), timeout=60)
    if done.returncode != 0:
        pytest.skip(f"Apptainer cannot run a directory here: {done.stderr.strip()}")
    return root
