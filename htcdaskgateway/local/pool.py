"""A whole HTCondor pool on the loopback address of this machine."""

from __future__ import annotations

import json
import logging
import os
import pwd
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dask.utils import parse_bytes

from .apptainer import Apptainer
from .errors import LocalSystemError
from .image import made_once
from .install import Installation, cache_directory, find_or_install
from .processes import ONE_UID, GuardedProcess, Startable, free_ports, one_uid_namespace, run, tail, wait_until

logger = logging.getLogger(__name__)

TOOL_TIMEOUT = 10.0
HOST = "127.0.0.1"
DOMAIN = "pool.test"
_TEST_IMAGE = "exit_37.sif"
# Words that begin a statement of HTCondor's configuration language rather than an assignment.
_STATEMENTS = {"if", "elif", "else", "endif", "include", "use", "error", "warning"}


def _config_lines(values: Mapping[str, object]) -> str:
    """Write assignments in HTCondor's configuration language; no value can add a line.

    Raises
    ------
    LocalSystemError
        If a name is none, or a value holds a line break or a NUL or ends in a backslash.
    """
    lines = []
    for name, value in values.items():
        text = str(value)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name) or name.lower() in _STATEMENTS:
            raise LocalSystemError(f"{name!r} is no name of a condor configuration variable")
        if len(text.splitlines()) > 1 or re.search(r"[\r\n\0]", text) or text.rstrip().endswith("\\"):
            raise LocalSystemError(f"{name}: a value of the condor configuration is one line: {text!r}")
        lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"


def _plain_path(path: Path) -> str:
    """Give the path's text if HTCondor's configuration takes it as it is."""
    text = os.fspath(path)
    if re.search(r"[\s$,\"'\\]", text):
        raise LocalSystemError(f"{text!r}: HTCondor needs a path without spaces, commas, quotes, $ and backslashes")
    return text


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
        _config_lines(self.config)
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
        """Write the pool's directory and give the command that starts its master."""
        condor, root = self.installation, _plain_path(self.directory)
        # HTCondor opens some of what is below to all. Somebody else's directory is left as it is.
        ours = not self.directory.exists() or (self.directory / "pool.lock").exists()
        self.directory.mkdir(parents=True, exist_ok=True)
        if ours:
            self.directory.chmod(0o700)
        for name in ("log", "spool", "execute", "lock", "run", "cred", "passwords.d", "tokens.d"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        key = self.directory / "passwords.d/POOL"
        if not key.exists():
            with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(os.urandom(64))
        # With one uid only, HTCondor takes itself for a personal pool, and jobs keep root's file rights.
        command = one_uid_namespace([condor.sbin / "condor_master", "-f"])
        uid, gid = os.getuid() or ONE_UID, os.getgid()
        paths = {
            "RELEASE_DIR": _plain_path(condor.prefix),
            "LOCAL_DIR": root,
            "BIN": _plain_path(condor.bin),
            "SBIN": _plain_path(condor.sbin),
            "LIB": _plain_path(condor.lib),
            "LIBEXEC": _plain_path(condor.libexec),
        }
        # One account alone: whoever else may submit runs what they like as this one. Its own daemons are it, too.
        owner = f"{_user_name(uid)}@{DOMAIN}"
        values: dict[str, object] = {
            **paths,
            **_CONFIG,
            **(self._container_config() if self.apptainer else {}),
            "CONDOR_IDS": "0.0" if os.getuid() == 0 else f"{uid}.{gid}",
            "SHARED_PORT_PORT": free_ports(1)[0],
            **{f"ALLOW_{level}": owner for level in ("READ", "WRITE", "DAEMON", "NEGOTIATOR", "ADMINISTRATOR")},
            "NUM_CPUS": self.cpus,
            "MEMORY": self.memory // 2**20,
            **self.config,
        }
        (self.directory / "condor_config").write_text(_config_lines(values))
        return command

    def _container_config(self) -> dict[str, object]:
        """Give what lets jobs run in containers; makes what HTCondor tries a container with."""
        apptainer = Apptainer.find_or_install()
        # HTCondor starts it without HOME; it would make a directory in the account's home, daemon's /usr/sbin say.
        program = self.directory / "apptainer"
        settings, words = shlex.quote(f"{program}.d"), shlex.quote(str(apptainer.program))
        program.write_text(f'#!/bin/sh\nAPPTAINER_CONFIGDIR={settings} exec {words} "$@"\n')
        program.chmod(0o755)
        values: dict[str, object] = {
            "SINGULARITY": _plain_path(program),
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
            values["LIBEXEC"] = _plain_path(libexec)
        return values

    def _tool_env(self) -> dict[str, str]:
        """Give this process's environment less what would override the pool's configuration."""
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


_CONFIG: dict[str, object] = {
    "LOCAL_CONFIG_FILE": "",
    "LOCAL_CONFIG_DIR": "",
    "USER_CONFIG_FILE": "",
    "SHARE": "$(RELEASE_DIR)/share/condor",
    "ETC": "$(LOCAL_DIR)",
    "RUN": "$(LOCAL_DIR)/run",
    "LOG": "$(LOCAL_DIR)/log",
    "LOCK": "$(LOCAL_DIR)/lock",
    "SPOOL": "$(LOCAL_DIR)/spool",
    "EXECUTE": "$(LOCAL_DIR)/execute",
    "SEC_CREDENTIAL_DIRECTORY": "$(LOCAL_DIR)/cred",
    "CONDOR_HOST": HOST,
    "NETWORK_INTERFACE": HOST,
    "BIND_ALL_INTERFACES": "false",
    "ENABLE_IPV6": "false",
    "NETWORK_HOSTNAME": "localhost",
    "USE_SHARED_PORT": "true",
    "COLLECTOR_HOST": "$(CONDOR_HOST):$(SHARED_PORT_PORT)",
    "UID_DOMAIN": DOMAIN,
    "FILESYSTEM_DOMAIN": DOMAIN,
    "TRUST_DOMAIN": DOMAIN,
    "TRUST_UID_DOMAIN": "true",
    "EMAIL_DOMAIN": DOMAIN,
    "CONDOR_ADMIN": "",
    "MAIL": "/bin/true",
    "SCHEDD_NAME": "schedd@",
    "SEC_DEFAULT_AUTHENTICATION": "REQUIRED",
    "SEC_DEFAULT_AUTHENTICATION_METHODS": "FS, IDTOKENS",
    "SEC_DEFAULT_INTEGRITY": "REQUIRED",
    "SEC_PASSWORD_DIRECTORY": "$(LOCAL_DIR)/passwords.d",
    "SEC_TOKEN_POOL_SIGNING_KEY_FILE": "$(LOCAL_DIR)/passwords.d/POOL",
    "SEC_TOKEN_SYSTEM_DIRECTORY": "$(LOCAL_DIR)/tokens.d",
    "DAEMON_LIST": "MASTER, COLLECTOR, NEGOTIATOR, SCHEDD, STARTD",
    "RESERVED_DISK": 0,
    "NUM_SLOTS_TYPE_1": 1,
    "SLOT_TYPE_1": "100%",
    "SLOT_TYPE_1_PARTITIONABLE": "true",
    # Without this, plugins in Python are asked and log the modules that they miss.
    "FILETRANSFER_PLUGINS": "$(LIBEXEC)/curl_plugin, $(LIBEXEC)/data_plugin",
    "START": "true",
    "SUSPEND": "false",
    "PREEMPT": "false",
    "KILL": "false",
    "RUNBENCHMARKS": "false",
    "BASE_CGROUP": "",
    "NEGOTIATOR_INTERVAL": 2,
    "NEGOTIATOR_MIN_INTERVAL": 1,
    "NEGOTIATOR_CYCLE_DELAY": 1,
    "SCHEDD_INTERVAL": 5,
    "SCHEDD_MIN_INTERVAL": 1,
    "UPDATE_INTERVAL": 5,
    "JOB_START_DELAY": 0,
    "PERIODIC_EXPR_INTERVAL": 5,
    "MAX_JOBS_PER_OWNER": 200000,
    "MAX_JOBS_PER_SUBMISSION": 200000,
}
