"""A whole HTCondor pool on the loopback address of this machine."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dask.utils import parse_bytes

from ..files import write_private
from .apptainer import Apptainer
from .debian import cache_directory
from .errors import LocalSystemError
from .image import made_once
from .install import Installation, find_or_install
from .pool_config import CONFIG, DOMAIN, config_lines, plain_path
from .processes import ONE_UID, GuardedProcess, Startable, free_ports, one_uid_namespace, run, tail, wait_until

TOOL_TIMEOUT = 10.0
_TEST_IMAGE = "exit_37.sif"


class PersonalPool(Startable):
    """An HTCondor pool of this machine alone, with made-up cores and memory.

    As a context manager it ends, with every job, at the end of the block, and also if this process dies.

    Parameters
    ----------
    directory : path, optional
        Where its configuration, queue and logs are; kept when the pool stops. By default a temporary one,
        which is removed.
    cpus : int
        The cores that its one slot claims to have.
    memory : str or int
        The memory that its slot claims to have, in dask's notation or in bytes.
    config : mapping, optional
        More variables of HTCondor's configuration, which override this class's own.
    installation : Installation, optional
        The HTCondor to run; by default this machine's own or one unpacked from Debian's packages.
    apptainer : bool
        Let jobs run in containers, with this machine's Apptainer or one unpacked from Debian's packages.
    start_timeout : float
        Seconds it has until its slot is there and its schedd answers.

    Raises
    ------
    LocalSystemError
        The memory or a line of the configuration cannot be used.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        cpus: int = 8,
        memory: str | int = "16GB",
        config: Mapping[str, object] | None = None,
        installation: Installation | None = None,
        apptainer: bool = False,
        start_timeout: float = 60,
    ) -> None:
        self.cpus = cpus
        self.memory = _bytes(memory)
        self.config = dict(config or {})
        config_lines(self.config)
        self.apptainer = apptainer
        self.start_timeout = start_timeout
        self._installation = installation
        self._temporary = directory is None
        self._directory = None if directory is None else Path(directory).absolute()
        self._guarded: GuardedProcess | None = None

    @property
    def directory(self) -> Path:
        """Where the pool keeps its state."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="htcdaskgateway-pool-"))
        return self._directory

    @property
    def installation(self) -> Installation:
        """The HTCondor that the pool runs."""
        if self._installation is None:
            self._installation = find_or_install()
        return self._installation

    @property
    def environ(self) -> dict[str, str]:
        """What a client of this pool sets in its environment."""
        return {
            "CONDOR_CONFIG": str(self.directory / "condor_config"),
            "CONDOR_BIN_DIR": str(self.installation.bin),
        }

    def start(self, *, detached: bool = False) -> None:
        """Start the pool and wait until its slot is there and its schedd answers.

        Parameters
        ----------
        detached : bool
            Stay when this process ends, until `stop`.

        Raises
        ------
        LocalSystemError
            If it is running already or does not come up in time; the end of its log is in the text.
        """
        process = self._process()
        if process.running():
            raise LocalSystemError(f"the pool in {self.directory} is running already")
        try:
            command = self._prepare()
            remove = self.directory if self._temporary else None
            process.start(command, env=self._tool_env(), cwd=self.directory, detached=detached, remove=remove)
            self._wait_until_up(process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every daemon and every job of the pool, and wait until they are gone.

        Raises
        ------
        LocalSystemError
            If one of them cannot be ended.
        """
        if self._directory is None:
            return
        self._process().stop()
        if self._temporary:
            shutil.rmtree(self._directory)
            self._directory = self._guarded = None

    def running(self) -> bool:
        """Whether this pool's daemons are running, whoever started them."""
        return self._directory is not None and self._process().running()

    def status(self) -> str:
        """Say in one line whether the pool is running, and how many cores and jobs it has.

        Raises
        ------
        LocalSystemError
            If its daemons are running and do not answer.
        """
        if not self.running():
            return "not running"
        slots = json.loads(self._ask("condor_status", "-json", "-attributes", "Cpus") or "[]")
        cpus = sum(slot["Cpus"] for slot in slots)
        jobs = json.loads(self._ask("condor_q", "-allusers", "-json", "-attributes", "JobStatus") or "[]")
        running = sum(job["JobStatus"] == 2 for job in jobs)
        return f"running: {cpus} cores, {running} of {len(jobs)} jobs running"

    def _process(self) -> GuardedProcess:
        if self._guarded is None:
            self._guarded = GuardedProcess(self.directory / "pool.lock", self.directory / "log/master.out")
        return self._guarded

    def _prepare(self) -> list[str | Path]:
        """Write the pool's directory and return the command that starts its master."""
        condor, root = self.installation, plain_path(self.directory)
        # HTCondor opens some of what is below to all. Somebody else's directory is left as it is.
        ours = not self.directory.exists() or (self.directory / "pool.lock").exists()
        self.directory.mkdir(parents=True, exist_ok=True)
        if ours:
            self.directory.chmod(0o700)
        for name in ("log", "spool", "execute", "lock", "run", "cred", "passwords.d", "tokens.d"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        key = self.directory / "passwords.d/POOL"
        if not key.exists():
            write_private(key, os.urandom(64))
        # With one uid only, HTCondor takes itself for a personal pool, and jobs keep root's file rights.
        command = one_uid_namespace([condor.sbin / "condor_master", "-f"])
        uid, gid = os.getuid() or ONE_UID, os.getgid()
        paths = {
            "RELEASE_DIR": plain_path(condor.prefix),
            "LOCAL_DIR": root,
            "BIN": plain_path(condor.bin),
            "SBIN": plain_path(condor.sbin),
            "LIB": plain_path(condor.lib),
            "LIBEXEC": plain_path(condor.libexec),
        }
        # One account alone: whoever else may submit runs what they like as this one. Its own daemons are it, too.
        owner = f"{_user_name(uid)}@{DOMAIN}"
        values: dict[str, object] = {
            **paths,
            **CONFIG,
            **(self._container_config() if self.apptainer else {}),
            "CONDOR_IDS": "0.0" if os.getuid() == 0 else f"{uid}.{gid}",
            "SHARED_PORT_PORT": free_ports(1)[0],
            **{f"ALLOW_{level}": owner for level in ("READ", "WRITE", "DAEMON", "NEGOTIATOR", "ADMINISTRATOR")},
            "NUM_CPUS": self.cpus,
            "MEMORY": self.memory // 2**20,
            **self.config,
        }
        (self.directory / "condor_config").write_text(config_lines(values))
        return command

    def _container_config(self) -> dict[str, object]:
        """Return what lets jobs run in containers; makes what HTCondor tries a container with."""
        apptainer = Apptainer.find_or_install()
        # HTCondor starts it without HOME; it would make a directory in the account's home, daemon's /usr/sbin say.
        program = self.directory / "apptainer"
        settings, words = shlex.quote(f"{program}.d"), shlex.quote(str(apptainer.program))
        program.write_text(f'#!/bin/sh\nAPPTAINER_CONFIGDIR={settings} exec {words} "$@"\n')
        program.chmod(0o755)
        values: dict[str, object] = {
            "SINGULARITY": plain_path(program),
            # Its default, /tmp and /var/tmp, hides a job's own directory where that lies below one of them.
            "MOUNT_UNDER_SCRATCH": "",
        }
        condor = self.installation
        sandbox = condor.libexec / "singularity_test_sandbox"
        if sandbox.is_dir() and not (condor.libexec / _TEST_IMAGE).exists():
            # HTCondor 23 says that a slot runs .sif files only if this one, which Debian leaves out, runs there.
            image = made_once(
                cache_directory() / "images" / _TEST_IMAGE, lambda path: apptainer.build(path, sandbox)
            )
            libexec = self.directory / "libexec"
            shutil.rmtree(libexec, ignore_errors=True)
            libexec.mkdir()
            for path in [*condor.libexec.iterdir(), image]:
                (libexec / path.name).symlink_to(path)
            values["LIBEXEC"] = plain_path(libexec)
        return values

    def _tool_env(self) -> dict[str, str]:
        """Return this process's environment less what would override the pool's configuration."""
        env = {name: value for name, value in os.environ.items() if not name.upper().startswith("_CONDOR_")}
        condor = self.installation
        env["PATH"] = os.pathsep.join([str(condor.bin), str(condor.sbin), env.get("PATH", os.defpath)])
        return {**env, **self.environ}

    def _ask(self, tool: str, *arguments: str) -> str:
        done = run([self.installation.bin / tool, *arguments], timeout=TOOL_TIMEOUT, env=self._tool_env())
        if done.returncode != 0:
            raise LocalSystemError(f"{tool} failed with exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _wait_until_up(self, process: GuardedProcess) -> None:
        last = ""

        def up() -> bool:
            nonlocal last
            if not process.running():
                raise LocalSystemError(f"condor_master ended:\n{tail(process.log)}")
            try:
                if not self._ask("condor_status", "-af", "Name"):
                    last = "no slot in condor_status"
                    return False
                self._ask("condor_q", "-af", "ClusterId")
            except LocalSystemError as error:
                last = str(error)
                return False
            return True

        if not wait_until(up, self.start_timeout):
            log = tail(self.directory / "log/MasterLog")
            raise LocalSystemError(f"the pool is not up after {self.start_timeout:g} s: {last}\n{log}")


def _bytes(memory: str | int) -> int:
    try:
        return int(parse_bytes(memory))
    except ValueError as error:
        raise LocalSystemError(f"memory={memory!r} is no amount of memory such as '16GB'") from error


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise LocalSystemError(f"user id {uid} has no name on this machine; HTCondor needs one") from None
