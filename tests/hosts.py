"""A network of hosts with a firewall between them, of namespaces below one process, for whoever runs the tests.

    with Hosts(directory) as hosts:
        hosts.firewall([Rule("notebook", "gateway", "443")])
        hosts.run("notebook", "curl", "https://gateway.pool.test")
        with hosts.closed("notebook", "gateway", "443"):
            ...
        assert not hosts.refused()

`field_site` runs a gateway server, a login node and a pool on them. All ends with this process, whatever becomes of
it. Nothing of the machine is changed, and nothing of the world can be reached from within. Files are the machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from support import wait_until

from htcdaskgateway.local.debian import said, unpack_packages
from htcdaskgateway.local.errors import LocalSystemError
from htcdaskgateway.local.processes import run

DOMAIN = "pool.test"
HOSTS = {
    "notebook": "10.77.1.2",
    "gateway": "10.77.2.2",
    "login": "10.77.3.2",
    "exec1": "10.77.4.2",
    "exec2": "10.77.5.2",
}
USER = "alice"
"""The account of all hosts, with the uid that HTCondor runs with."""

_SPACE = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
_TABLE = "inet field"


class Rule(NamedTuple):
    """What a firewall lets through: TCP from one host to the `ports` of another."""

    source: str
    target: str
    ports: str


def address(name: str) -> str:
    """Return the name by which a host is known."""
    return f"{name}.{DOMAIN}"


def why_not() -> str:
    """Return why there can be no such network on this machine, or nothing."""
    missing = [tool for tool in ("unshare", "nsenter", "ip", "mount", "openssl") if not shutil.which(tool)]
    if missing:
        return f"{', '.join(missing)} is not installed"
    tried = run([*_SPACE, "--mount-proc", "--", "ip", "link", "set", "lo", "up"], timeout=20)
    if tried.returncode != 0:
        return f"namespaces are not allowed here: {tried.stderr.strip()}"
    try:
        nft()
    except LocalSystemError as error:
        return f"there is no nft: {error}"
    return ""


def nft() -> Path:
    """Return nft, this machine's or one unpacked from Debian's packages."""
    own = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if own:
        return Path(own)

    def program(prefix: Path) -> Path:
        return next(path for path in (prefix / "usr/sbin/nft", prefix / "sbin/nft") if path.exists())

    def tried(prefix: Path) -> str:
        return said(run([program(prefix), "--version"], timeout=20), "nft")

    return program(unpack_packages("nftables-trixie", "trixie", ["nftables"], tried, way_out="install nftables"))


class Hosts:
    """Five hosts, each with a network, a name and mounts of its own; `directory` is for what they need."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._first: subprocess.Popen[str] | None = None
        self._space = 0
        self._pids: dict[str, int] = {}
        self._rules: list[Rule] = []
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Hosts:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_names()
        # It ends when this process does: its standard input ends then.
        forwards = "echo 1 >/proc/sys/net/ipv4/ip_forward"
        words = f"mount --make-rprivate / && ip link set lo up && {forwards} && echo up && exec cat"
        self._first = subprocess.Popen(
            [*_SPACE, "--mount-proc", "--", "sh", "-c", words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert self._first.stdout is not None
            assert self._first.stdout.readline() == "up\n", "the namespaces could not be made"
            pid = self._first.pid
            self._space = int(_children(pid)[0])
            for name, file in (("passwd", "/etc/passwd"), ("group", "/etc/group"), ("hosts", "/etc/hosts")):
                self.root("mount", "--bind", self.directory / name, os.path.realpath(file))
            self.root("mount", "--bind", self.directory / "resolv", os.path.realpath("/etc/resolv.conf"))
            for number, name in enumerate(HOSTS, 1):
                self._add(number, name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        first, self._first = self._first, None
        if first is None:
            return
        assert first.stdin is not None
        first.stdin.close()
        try:
            first.wait(timeout=20)
        finally:
            first.kill()
            first.wait(timeout=20)
            if first.stdout is not None:
                first.stdout.close()
            for process in self._running:
                process.kill()
                process.wait(timeout=20)

    def _write_names(self) -> None:
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        known = "".join(f"{ip} {address(name)} {name}\n" for name, ip in HOSTS.items())
        (self.directory / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
        (self.directory / "passwd").write_text(f"root:x:0:0:root:/root:/bin/sh\n{USER}:x:1:1::{home}:/bin/sh\n")
        (self.directory / "group").write_text(f"root:x:0:\n{USER}:x:1:\n")
        (self.directory / "resolv").write_text("")

    def _add(self, number: int, name: str) -> None:
        ports = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
        words = f"hostname {address(name)} && echo 0 >{ports} && echo up && exec sleep infinity"
        process = subprocess.Popen(
            self._entered("unshare", "--net", "--uts", "--mount", "--", "sh", "-c", words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self._running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n", f"the host {name} could not be made"
        process.stdout.close()
        # nsenter forks to enter a namespace of processes; its child has become the host.
        pid = int(_children(process.pid)[0])
        self._pids[name] = pid
        inside = next(
            line.split()[-1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "NSpid" in line
        )
        link = f"to-{name}"
        self.root("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", inside)
        self.root("ip", "addr", "add", f"10.77.{number}.1/24", "dev", link)
        self.root("ip", "link", "set", link, "up")
        for command in (
            f"ip addr add {HOSTS[name]}/24 dev eth0",
            "ip link set eth0 up",
            "ip link set lo up",
            f"ip route add default via 10.77.{number}.1",
        ):
            self.run(name, *command.split(), check=True)

    def _entered(self, *command: object, target: int = 0, kinds: Sequence[str] = ()) -> list[str]:
        spaces = ["--user", "--preserve-credentials", "--mount", "--pid", "--net", "--uts", *kinds]
        return ["nsenter", "--target", str(target or self._space), *spaces, "--", *map(str, command)]

    def root(self, *command: object) -> str:
        """Run a command beside the hosts, where their links and the firewall are; return its output."""
        done = run(self._entered(*command), timeout=30)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def command(self, host: str, *command: object, user: bool = False, cwd: Path | None = None) -> list[str]:
        """Return the command that runs another on a host, as its root or as the user of all hosts."""
        nested = ["unshare", "--user", "--map-user=1", "--map-group=1", "--"] if user else []
        there = ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd)] if cwd else []
        return self._entered(*nested, *there, *command, target=self._pids[host])

    def run(
        self,
        host: str,
        *command: object,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        check: bool = False,
        **how: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end."""
        done = run(self.command(host, *command, **how), timeout=timeout, env=env)
        assert not check or done.returncode == 0, f"{host}: {command}: {done.stderr}{done.stdout}"
        return done

    def python(
        self, host: str, program: str, *arguments: object, env: Mapping[str, str], cwd: Path, timeout: float = 120
    ) -> Any:
        """Run a program in Python on a host, and return what it prints last, which is JSON."""
        done = self.run(host, sys.executable, "-c", program, *arguments, env=env, cwd=cwd, timeout=timeout)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    def start(
        self, host: str, *command: object, log: Path, env: Mapping[str, str] | None = None, **how: Any
    ) -> subprocess.Popen[bytes]:
        """Start a daemon on a host; it ends with the hosts."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                self.command(host, *command, **how), env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        self._running.append(process)
        return process

    def hide(self, host: str, path: Path) -> None:
        """Put an empty directory of the host's own in place of one that the hosts share."""
        self.run(host, "mount", "-t", "tmpfs", "tmpfs", path, check=True)

    def firewall(self, rules: Iterable[Rule]) -> None:
        """Let through what the rules say and nothing else; forget what was seen and refused."""
        self._rules = list(rules)
        lines = "\n".join(map(_rule, self._rules))
        (self.directory / "rules.nft").write_text(f"""
flush ruleset
table {_TABLE} {{
  set seen {{ type ipv4_addr . ipv4_addr . inet_service; flags dynamic; }}
  set refused {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags dynamic; }}
  chain cut {{ }}
  chain open {{
{lines}
  }}
  chain forward {{
    type filter hook forward priority 0; policy drop;
    jump cut
    ct state established,related accept
    ct state new tcp flags syn add @seen {{ ip saddr . ip daddr . tcp dport }}
    jump open
    meta l4proto {{ tcp, udp }} add @refused {{ ip saddr . ip daddr . meta l4proto . th dport }}
    drop
  }}
}}
""")
        self.root(nft(), "-f", self.directory / "rules.nft")

    def close(self, source: str, target: str, ports: str) -> None:
        """Cut a wire: what is sent is lost, also on connections that are open."""
        self.root(nft(), "add", "rule", *_TABLE.split(), "cut", *_match(Rule(source, target, ports)), "drop")

    def open(self) -> None:
        """Mend all wires that were cut."""
        self.root(nft(), "flush", "chain", *_TABLE.split(), "cut")

    @contextlib.contextmanager
    def closed(self, source: str, target: str, ports: str) -> Iterator[None]:
        """Cut a wire for as long as the block lasts."""
        self.close(source, target, ports)
        try:
            yield
        finally:
            self.open()

    def seen(self) -> set[Rule]:
        """Return the connections that were begun, each with its one port."""
        return {Rule(source, target, str(port)) for source, target, port in self._set("seen")}

    def refused(self) -> set[tuple[str, str, str, int]]:
        """Return what was refused: from where, to where, the protocol and the port."""
        return {(source, target, protocol, port) for source, target, protocol, port in self._set("refused")}

    def _set(self, name: str) -> Iterator[list[Any]]:
        names = {ip: host for host, ip in HOSTS.items()}
        told = json.loads(self.root(nft(), "-j", "list", "set", *_TABLE.split(), name))
        for entry in (entry for item in told["nftables"] for entry in item.get("set", {}).get("elem", [])):
            values = entry.get("elem", entry)
            found = values.get("val", values)["concat"]
            yield [names.get(found[0], found[0]), names.get(found[1], found[1]), *found[2:]]


def allows(rules: Iterable[Rule], connection: Rule) -> bool:
    """Tell whether one of the rules lets a connection to one port through."""
    for rule in rules:
        first, _, last = rule.ports.partition("-")
        if rule[:2] == connection[:2] and int(first) <= int(connection.ports) <= int(last or first):
            return True
    return False


def _match(rule: Rule) -> list[str]:
    ends = ["ip", "saddr", HOSTS[rule.source], "ip", "daddr", HOSTS[rule.target]]
    return [*ends, "tcp", "dport", rule.ports]


def _rule(rule: Rule) -> str:
    return f"    {' '.join(_match(rule))} accept"


def _children(pid: int) -> list[str]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return wait_until(lambda: found.read_text().split(), what="the process has a child")
