"""A whole site on the `hosts`: an HTTPS gateway, a login node with sshd and the schedd, two execute nodes.

with field(directory) as site:                      # the firewall lets through what docs/administrators.md says
    site.set_up()                                   # setup_condor, as the user in the notebook types it
    site.notebook("from htcdaskgateway import HTCGateway; …; print(json.dumps(…))")
with field(directory, open_ports=[Rule(…)]) as site:   # or something else
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from hosts import DOMAIN, HOSTS, USER, Hosts, Rule, address
from support import COVERAGE, JOBS, SCHEDULERS, wait_until

from htcdaskgateway.local import PersonalPool
from htcdaskgateway.local.install import find_or_install
from htcdaskgateway.local.processes import run

PAGE = Path(__file__).parents[1] / "docs/administrators.md"
PASSWORD = "let me in"  # the gateway's
CLOSED = "10000-10070"
"""The workers' ports, which no firewall has to let through where there is a relay."""
_ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| (\d+(?:-\d+)?) \| ([^|]+) \|$", re.M)
_WHERE = {
    "notebook": ["notebook"],
    "gateway server": ["gateway"],
    "scheduler proxy": ["gateway"],
    "scheduler": ["gateway"],
    "login node": ["login"],
    "schedd": ["login"],
    "collector": ["login"],
    "execute nodes": ["exec1", "exec2"],
}

_GATEWAY = """
import sys, time
from htcdaskgateway.local import GatewayServer
host, certificate, key, password, more = sys.argv[1:]
server = GatewayServer(
    password=password, host=host, tls=(certificate, key), cluster_max_workers=0, extra_config=more
)
server._http_port, server.proxy_address = 443, 8786
with server:
    print("up", flush=True)
    while True:
        time.sleep(3600)
"""


def documented() -> list[Rule]:
    """Return what the administrators' page says is to be open between hosts."""
    found = []
    for sources, targets, ports, _ in _ROW.findall(PAGE.read_text()):
        ends = product(
            *([host for name in names.split(", ") for host in _WHERE[name]] for names in (sources, targets))
        )
        found += [Rule(source, target, ports) for source, target in ends if source != target]
    return list(dict.fromkeys(found))


@contextlib.contextmanager
def field(
    directory: Path, open_ports: Iterable[Rule] | None = None, *, spool: bool = True, daemons: bool = True
) -> Iterator[Site]:
    """Run a site whose firewall lets through `open_ports`, by default what is documented.

    `spool`: the notebook's home is on no other host; otherwise the login node shares it.
    """
    with Hosts(directory) as hosts:
        site = Site(hosts, spool=spool)
        hosts.firewall(documented() if open_ports is None else open_ports)
        if daemons:
            site.start()
        yield site


class Site:
    """What runs on the hosts, and the user's account there."""

    def __init__(self, hosts: Hosts, *, spool: bool) -> None:
        self.hosts = hosts
        self.work = hosts.directory
        self.home = self.work / "home"
        self.condor = find_or_install()
        self._spool = spool
        self._key = secrets.token_bytes(64)
        self._host_key = ""

    def start(self) -> None:
        """Start all daemons and wait until they answer."""
        for name in ["exec1", "exec2", "gateway", *(["login"] if self._spool else [])]:
            self.hosts.hide(name, self.home)
        login = self._condor("login", "MASTER, COLLECTOR, NEGOTIATOR, SCHEDD")
        for name in ("exec1", "exec2"):
            self._condor(name, "MASTER, STARTD")
        self._start_gateway()
        self._start_sshd(login)
        self._configure()
        wait_until(lambda: "up" in self._read("gateway.log").splitlines(), what=lambda: self._read("gateway.log"))

        def up() -> bool:
            slots = self.ask(login, "condor_status", "-af", "Name")
            return len(slots.split()) == 2 and "Total for query" in self.ask(login, "condor_q", "-totals")

        wait_until(up, what=lambda: self._read("condor/login/log/MasterLog")[-3000:])
        self.pool = login

    def ask(self, pool: PersonalPool, tool: str, *arguments: object) -> str:
        """Run one of HTCondor's tools on the login node."""
        done = self.hosts.run("login", self.condor.bin / tool, *arguments, env=pool._tool_env(), user=True)
        return done.stdout

    def _read(self, name: str) -> str:
        path = self.work / name
        return path.read_text(errors="replace") if path.exists() else ""

    def _condor(self, name: str, daemons: str) -> PersonalPool:
        directory = self.work / "condor" / name
        (directory / "passwords.d").mkdir(parents=True, mode=0o700)
        key = directory / "passwords.d/POOL"
        key.touch(0o600)
        key.write_bytes(self._key)
        accounts = f"{USER}@{DOMAIN}, condor@{DOMAIN}"
        pool = PersonalPool(
            directory,
            cpus=4,
            memory="8GB",
            config={
                "CONDOR_HOST": address("login"),
                "COLLECTOR_HOST": "$(CONDOR_HOST):9618",
                "SHARED_PORT_PORT": 9618,
                "NETWORK_INTERFACE": HOSTS[name],
                "NETWORK_HOSTNAME": address(name),
                "SCHEDD_NAME": address(name),
                "CONDOR_IDS": "0.0",
                **JOBS,
                **{
                    f"ALLOW_{level}": accounts
                    for level in ("READ", "WRITE", "DAEMON", "NEGOTIATOR", "ADMINISTRATOR")
                },
            },
        )
        pool._prepare()
        with (directory / "condor_config").open("a") as file:
            # The last line counts: schedd and slots are on different hosts here.
            file.write(f"DAEMON_LIST = {daemons}\n")
        self.hosts.start(
            name,
            *["unshare", "--user", "--map-user=1", "--map-group=1", "--"],
            *[self.condor.sbin / "condor_master", "-f"],
            env=pool._tool_env(),
            log=directory / "log/master.out",
            cwd=directory,
        )
        return pool

    def _start_gateway(self) -> None:
        certificate, key = self.work / "gateway.crt", self.work / "gateway.key"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        names = ["-subj", f"/CN={address('gateway')}", "-addext", f"subjectAltName=DNS:{address('gateway')}"]
        _made("openssl", "req", "-x509", *curve, "-keyout", key, "-out", certificate, *names)
        self.hosts.start(
            "gateway",
            *[sys.executable, "-c", _GATEWAY, HOSTS["gateway"], certificate, key, PASSWORD, SCHEDULERS],
            env={**os.environ, "TMPDIR": str(self.work), "HOME": str(self.work)},
            log=self.work / "gateway.log",
        )

    def _start_sshd(self, login: PersonalPool) -> None:
        """Start OpenSSH's own server as the user, who is all that there is."""
        for name in ("key", "host"):
            _made("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.work / name)
        shutil.copy(self.work / "key.pub", self.work / "allowed")
        (self.work / "sshd_config").write_text(
            f"ListenAddress {HOSTS['login']}:22\nHostKey {self.work}/host\nAuthorizedKeysFile {self.work}/allowed\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\n"
            f"SetEnv CONDOR_CONFIG={login.environ['CONDOR_CONFIG']} PATH={self.condor.bin}:/usr/bin:/bin\n"
        )
        self.hosts.start(
            "login",
            "/usr/sbin/sshd",
            "-D",
            "-e",
            "-f",
            self.work / "sshd_config",
            log=self.work / "sshd.log",
            user=True,
        )
        self._host_key = _made("ssh-keygen", "-lf", self.work / "host.pub").split()[1]

    def _configure(self) -> None:
        """Write what the site's administrators put into /etc/dask, and the user into a .env file."""
        (self.work / "etc-dask").mkdir()
        ssh = [f"IdentityFile={self.work}/key", f"UserKnownHostsFile={self.work}/known", "IdentitiesOnly=yes"]
        site = {
            "gateway": {"address": f"https://{address('gateway')}", "proxy-address": 8786},
            "htcdaskgateway": {
                "worker": {
                    "container-runtime": "none",
                    "python": sys.executable,
                    "cpus": 1,
                    "memory": "1GB",
                    "spool": self._spool,
                },
                "setup": {
                    "login-host": address("login"),
                    "user": USER,
                    "schedd": address("login"),
                    "collector": address("login"),
                    "trust-domain": DOMAIN,
                    "uid-domain": DOMAIN,
                    "ssh-options": ssh,
                    "host-key": self._host_key,
                },
            },
        }
        (self.work / "etc-dask/site.yaml").write_text(yaml.safe_dump(site))
        (self.home / ".env").write_text(f"DASK_GATEWAY_PASSWORD='{PASSWORD}'\n")

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the user's notebook."""
        return {
            "HOME": str(self.home),
            "USER": USER,
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "DASK_ROOT_CONFIG": str(self.work / "etc-dask"),
            "DASK_CONFIG": str(self.home / ".config/dask"),
            "SSL_CERT_FILE": str(self.work / "gateway.crt"),
            "CONDOR_BIN_DIR": str(self.condor.bin),
            **COVERAGE,
        }

    def type(self, *words: str, timeout: float = 120, **environ: str) -> tuple[int, str]:
        """Type a command in the notebook's terminal; return its exit code and what it wrote."""
        command = [sys.executable, "-m", *words]
        done = self.hosts.run("notebook", *command, env={**self.environ, **environ}, cwd=self.home, timeout=timeout)
        return done.returncode, done.stdout + done.stderr

    def set_up(self) -> None:
        """Run setup_condor in the notebook."""
        code, said = self.type("htcdaskgateway.setup_condor")
        assert code == 0, f"{said}{self._read('sshd.log')[-1500:]}"

    def notebook(self, program: str, *arguments: object, timeout: float = 120, **environ: str) -> Any:
        """Run a program in the notebook, and return what it prints last, which is JSON."""
        where = {"env": {**self.environ, **environ}, "cwd": self.home, "timeout": timeout}
        return self.hosts.python("notebook", program, *arguments, **where)

    def begin(self, program: str, **environ: str) -> subprocess.Popen[str]:
        """Start a program in the notebook that waits for a line at its standard input."""
        command = self.hosts.command("notebook", sys.executable, "-c", program, cwd=self.home)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env={**self.environ, **environ}, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    @staticmethod
    def expect(process: subprocess.Popen[str], word: str) -> list[str]:
        """Read what the program prints until it has printed a line; return the lines."""
        assert process.stdout is not None
        read = []
        for line in process.stdout:
            read.append(line)
            if line.strip() == word:
                return read
        raise AssertionError("".join(read))

    @staticmethod
    def answer(process: subprocess.Popen[str], timeout: float = 120) -> Any:
        """Let the program go on, and return what it prints last, which is JSON."""
        with process:
            try:
                said, _ = process.communicate("\n", timeout=timeout)
            finally:
                process.kill()
        assert process.returncode == 0, said
        return json.loads(said.splitlines()[-1])


def _made(*command: object) -> str:
    done = run(list(map(str, command)), timeout=30)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
