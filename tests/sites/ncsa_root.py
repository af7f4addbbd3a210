"""A program: in a root and a network of its own, whose hosts have NCSA's names, run docs/quickstart.md as it is.

`test_ncsa` starts it in namespaces of its own, so that nothing of it stays. No word of the page is replaced: the
password is its three dots, and HTCondor's tools are where it says. What is not NCSA's: all daemons run on one
machine, and nobody has signed the gateway's certificate.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import private_root

PAGE = Path(__file__).parents[2] / "docs/quickstart.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
GATEWAY, LOGIN = "dask.software-dev.ncsa.illinois.edu", "htc-login1.campuscluster.illinois.edu"
HOME = Path("/home/myhome")

LOOK = """
import json, sys
def look():
    import os, sys
    return {"prefix": sys.prefix, "container": os.environ.get("APPTAINER_CONTAINER", "none")}
(looked, *_) = client.run(look).values()
looked |= {"staging": str(cluster.fleet.staging.directory.parent), "schedd": cluster.fleet.schedd}
looked |= {"workers": len(client.nthreads()), "scheduler": client.scheduler.address}
print("FOUND " + json.dumps(looked))
"""
LEFT = """
import time
deadline = time.monotonic() + 60
while (left := [report.name for report in gateway.list_clusters()]) and time.monotonic() < deadline:
    time.sleep(0.2)
print("LEFT " + json.dumps(left))
"""


def blocks(language: str) -> list[str]:
    """Return the page's blocks in one language, up to where it is Fermilab's."""
    ncsa = PAGE.read_text(encoding="utf-8").partition("\n## At Fermilab")[0]
    return [text for kind, text in FENCE.findall(ncsa) if kind == language]


def certificate(directory: Path) -> tuple[Path, Path]:
    """Make the gateway's certificate."""
    made, key = directory / "gateway.crt", directory / "gateway.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", f"/CN={GATEWAY}", "-addext", f"subjectAltName=DNS:{GATEWAY}"]
    command = ["openssl", "req", "-x509", *curve, "-keyout", key, "-out", made, *names]
    subprocess.run(list(map(str, command)), check=True, timeout=30, capture_output=True)
    return made, key


def main(root: Path, work: Path) -> None:
    from htcdaskgateway.local import GatewayServer, LocalSystem, PersonalPool, image
    from htcdaskgateway.local.apptainer import Apptainer
    from htcdaskgateway.local.processes import wait_until

    sandbox, sif, program = image.sandbox(), image.sif(), Apptainer.find_or_install().program
    private_root.enter(root)
    private_root.furnish(sandbox, sif, program)
    hosts = work / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {GATEWAY} {LOGIN}\n")
    for command in (["mount", "--bind", str(hosts), "/etc/hosts"], ["ip", "link", "set", "lo", "up"]):
        subprocess.run(command, check=True, timeout=30)

    (dotenv,) = blocks("text")
    pair = certificate(work)
    server = GatewayServer(password=dotenv.strip().partition("=")[2], tls=pair, cluster_max_workers=0)
    server._http_port, server.proxy_address = 443, 8786
    config = dict.fromkeys(("SCHEDD_NAME", "NETWORK_HOSTNAME", "CONDOR_HOST"), LOGIN)
    pool = PersonalPool(apptainer=True, cpus=16, memory="80GB", config=config)
    with LocalSystem(pool=pool, server=server):
        (HOME / ".conda/envs/dask-gateway").mkdir(parents=True)
        (HOME / ".conda/envs/dask-gateway/bin").symlink_to(pool.installation.bin)
        (HOME / ".env").write_text(dotenv)
        load, cell, tools, *rest = blocks("python")
        shown = next(place for place, text in enumerate(rest) if "shutdown()" in text)
        # What names the tools comes "before the cell above".
        cells = [load, tools, cell, *rest[:shown], LOOK, *rest[shown:], LEFT]
        (HOME / "notebook.py").write_text("\n".join(cells))
        kept = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        own = {"HOME": str(HOME), "USER": "alice", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        own |= {"CONDOR_CONFIG": pool.environ["CONDOR_CONFIG"], "SSL_CERT_FILE": str(pair[0])}
        done = subprocess.run(
            [sys.executable, "notebook.py"],
            env={**kept, **own},
            cwd=HOME,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        left = ["none asked"]

        def none_left() -> bool:
            left[:] = pool._ask("condor_q", "-allusers", "-af", "HTCDaskGatewayCluster", "JobStatus").splitlines()
            return not left

        wait_until(none_left, 60)
        print("RAN", json.dumps([done.returncode, done.stdout, done.stderr[-4000:], left]), flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
