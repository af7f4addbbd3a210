"""`htcdaskgateway doctor` on a whole site: all is well, and faults are injected, each of which it names."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from field_site import Site, field

pytestmark = [pytest.mark.long]

_CLUSTER = """
import json, sys
from htcdaskgateway import HTCGateway
with HTCGateway() as gateway, gateway.new_cluster(relay="never") as cluster:
    cluster.scale(8)
    cluster.wait_for_workers(8, timeout=120)
    print(cluster.name)
    print("ready", flush=True)
    sys.stdin.readline()
print("{}")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, needs_hosts: None) -> Iterator[Site]:
    """A site that works, and is mended after each test."""
    with field(tmp_path_factory.mktemp("doctor") / "field") as made:
        made.set_up()
        yield made


def ask(site: Site, *words: str, **environ: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Run the doctor; return its exit code and its lines by their names."""
    code, said = site.type("htcdaskgateway.cli", "doctor", "--json", *words, timeout=240, **environ)
    lines: dict[str, list[dict[str, Any]]] = {}
    found, end = json.JSONDecoder().raw_decode(said)
    assert said[end:].strip() == "", said[end:]
    for line in found:
        lines.setdefault(line["name"], []).append(line)
    return code, lines


def wrong(lines: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Return what is said to be wrong, by the names of the lines."""
    return {
        name: "; ".join(line["text"] + "; " + line["hint"] for line in some if line["good"] is False)
        for name, some in lines.items()
        if any(line["good"] is False for line in some)
    }


def test_all_is_well_and_each_value_says_where_it_is_from(site: Site) -> None:
    code, lines = ask(site, DASK_HTCDASKGATEWAY__WORKER__CPUS="2")
    assert code == 0, lines
    names = {"site", "setting", "tools", "configuration", "token", "collector", "schedd", "staging"}
    assert set(lines) == names | {"gateway", "proxy", "account", "login", "worker"}
    settings = "\n".join(line["text"] for line in lines["setting"])
    assert f"gateway.address = 'https://gateway.pool.test', from {site.work}/etc-dask/site.yaml" in settings
    assert "htcdaskgateway.worker.cpus = 2, from the environment's DASK_HTCDASKGATEWAY__WORKER__CPUS" in settings
    assert lines["site"][0]["text"] == "ncsa, from a default"
    assert "let me in" not in json.dumps(lines), "the password is not shown"


@contextlib.contextmanager
def _without_token(site: Site) -> Iterator[None]:
    (token,) = (site.home / ".condor/tokens.d").iterdir()
    away = token.rename(site.home / "away")
    try:
        yield
    finally:
        away.rename(token)


@contextlib.contextmanager
def _open_token(site: Site) -> Iterator[None]:
    (token,) = (site.home / ".condor/tokens.d").iterdir()
    token.chmod(0o644)
    try:
        yield
    finally:
        token.chmod(0o600)


def _cut(target: str, port: str) -> Callable[[Site], contextlib.AbstractContextManager[None]]:
    return lambda site: site.hosts.closed("notebook", target, port)


@pytest.mark.parametrize(
    ("fault", "environ", "name", "said"),
    [
        (None, {"DASK_HTCDASKGATEWAY__SITE": "nowhere"}, "site", "'nowhere' is none of"),
        (None, {"CONDOR_BIN_DIR": "/nowhere"}, "tools", "conda install"),
        (_without_token, {}, "tokens", "run `setup_condor`"),
        (_open_token, {}, "token", "chmod 600"),
        (_cut("login", "9618"), {}, "collector", "login.pool.test:9618 gives no answer"),
        (None, {"HTCDASK_STAGEDIR": "/proc/nowhere"}, "staging", "HTCDASK_STAGEDIR"),
        (_cut("gateway", "443"), {}, "gateway", "https://gateway.pool.test does not answer"),
        (None, {"DASK_GATEWAY__ADDRESS": "https://no.pool.test"}, "gateway", "no.pool.test does not answer"),
        (None, {"SSL_CERT_FILE": "/dev/null"}, "gateway", "(?i)certificate"),
        (_cut("gateway", "8786"), {}, "proxy", "gateway.pool.test:8786 does not answer"),
        (None, {"DASK_GATEWAY_PASSWORD": "wrong"}, "account", "does not take the password of 'alice'"),
        (_cut("login", "22"), {}, "login", "login.pool.test:22 cannot be reached"),
        (None, {"DASK_HTCDASKGATEWAY__WORKER__MEMORY": "much"}, "worker", "memory='much'"),
    ],
    ids=[
        *["unknown site", "no tools", "no token", "token open to others", "schedd cut off", "staging"],
        *["gateway cut off", "name unknown", "certificate", "proxy cut off", "password", "login node", "worker"],
    ],
)
def test_a_fault_is_named(
    site: Site,
    fault: Callable[[Site], contextlib.AbstractContextManager[None]] | None,
    environ: dict[str, str],
    name: str,
    said: str,
) -> None:
    with fault(site) if fault else contextlib.nullcontext():
        code, lines = ask(site, **environ)
    assert code == 1
    told = wrong(lines)
    assert re.search(said, told.get(name, "")), told


def test_what_is_wrong_with_a_cluster_is_named(site: Site) -> None:
    process = site.begin(_CLUSTER)
    cluster = site.expect(process, "ready")[-2].strip()
    code, lines = ask(site, "--cluster", cluster[:8])
    assert code == 0, wrong(lines)
    assert {"cluster", "jobs", "network", "versions"} <= set(lines)
    with site.hosts.closed("exec2", "exec1", "10000-10070"):
        code, lines = ask(site, "--cluster", cluster)
    assert code == 1
    assert set(wrong(lines)) == {"network"}
    assert re.search(r"10\.77\.5\.2:100\d\d .* -> 10\.77\.4\.2:100\d\d .*: no answer", wrong(lines)["network"])
    assert site.ask(site.pool, "condor_hold", "-all")
    code, lines = ask(site, "--cluster", cluster)
    assert code == 1
    assert "was held by hand" in wrong(lines)["jobs"]
    assert "condor_release" in wrong(lines)["jobs"]
    site.answer(process)
