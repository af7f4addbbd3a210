"""A program: in a root of its own that has sites' directories, run a cluster with each site's profile as it is.

`test_real` starts it in namespaces of its own, so that nothing of it stays. What is not the site's: the gateway's
address and login, and HTCondor's own means to delegate a proxy or to keep credentials, which this pool lacks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TOPS = ("cvmfs", "u", "uscmst1b_scratch")  # beside "home", which has the machine's, too
UNPACKED = Path("/cvmfs/unpacked.cern.ch")
IMAGES = (
    "registry.hub.docker.com/coffeateam/coffea-base-almalinux8:0.7.22-py3.10",
    "registry.hub.docker.com/coffeateam/coffea-dask-almalinux8:latest",
    "gitlab-registry.cern.ch/batch-team/dask-lxplus/lxdask-al9:latest",
)
APPTAINER = Path("/cvmfs/oasis.opensciencegrid.org/mis/apptainer/current/bin/apptainer")
NCSA = Path("/u/bengal1/condor/PublicHealth.sif")
SCRATCH = Path("/uscmst1b_scratch/lpc1/3DayLifetime/alice")

USE = """
import json, os, sys
import dask.config
from htcdaskgateway import HTCGateway
more = json.loads(sys.argv[1])
extra = dict(dask.config.get("htcdaskgateway.worker.job-extra-directives"))
if extra.pop("MY.SendCredential", None):
    more["job_extra_directives"] = extra
    dask.config.set({"htcdaskgateway.worker.job-extra-directives": {}})
with HTCGateway() as gateway:
    cluster = gateway.new_cluster(**more)
    try:
        cluster.scale(2)
        cluster.wait_for_workers(2, timeout="60s")
        client = cluster.get_client()
        def look():
            import os, sys
            proxy = os.environ.get("X509_USER_PROXY", "")
            shown = os.path.isdir("/srv") and "dask.pem" in os.listdir("/srv")
            return {"prefix": sys.prefix, "proxy": os.path.exists(proxy), "srv": shown}
        assert sum(client.gather(client.map(lambda i: i, range(100)))) == 4950
        (found, *_) = client.run(look).values()
        found |= {"staging": str(cluster.fleet.staging.directory.parent), "schedd": cluster.fleet.schedd}
        print("FOUND " + json.dumps(found))
    except BaseException:
        print(cluster.explain(), cluster.logs(), file=sys.stderr)
        raise
    finally:
        cluster.shutdown()
"""


def enter(root: Path) -> None:
    """Make a root that is this machine's and has the sites' directories, and go there."""

    def run(*command: object) -> None:
        subprocess.run(list(map(str, command)), check=True, timeout=30)

    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "none", root)
    (root / "home").mkdir()
    for entry in (*Path("/").iterdir(), *Path("/home").glob("*")):
        place = root / entry.relative_to("/")
        if entry == Path("/home"):  # the root's own, so that a user's can be made there
            continue
        if entry.is_symlink():
            place.symlink_to(entry.readlink())
        elif entry.is_dir():
            place.mkdir()
            run("mount", "--rbind", entry, place)
    for top in (*TOPS, ".old"):
        (root / top).mkdir()
    os.chdir(root)
    run("pivot_root", ".", ".old")
    os.chdir("/")
    run("umount", "-l", "/.old")


def furnish(sandbox: Path, sif: Path, program: Path) -> None:
    """Put the sites' files where the sites have them."""
    for image in IMAGES:
        (UNPACKED / image).parent.mkdir(parents=True, exist_ok=True)
        (UNPACKED / image).symlink_to(sandbox)
    APPTAINER.parent.mkdir(parents=True)
    APPTAINER.write_text(f'#!/bin/sh\nAPPTAINER_CONFIGDIR="${{TMPDIR:-/tmp}}/apptainer" exec {program} "$@"\n')
    APPTAINER.chmod(0o755)
    NCSA.parent.mkdir(parents=True)
    NCSA.symlink_to(sif)
    for directory in (SCRATCH, Path("/u/alice")):
        directory.mkdir(parents=True)


def main(root: Path, home: Path, proxy: Path, sites: list[str]) -> None:
    from htcdaskgateway.local import LocalSystem, PersonalPool, image
    from htcdaskgateway.local.apptainer import Apptainer

    sandbox, sif, program = image.sandbox(), image.sif(), Apptainer.find_or_install().program
    enter(root)
    furnish(sandbox, sif, program)
    settings = {
        "DELEGATE_JOB_GSI_CREDENTIALS": "false",
        "isDaskNode": "true",
        "STARTD_ATTRS": "$(STARTD_ATTRS) isDaskNode",
        "SINGULARITY_JOB": "!isUndefined(TARGET.SingularityImage)",
        "SINGULARITY_IMAGE_EXPR": "TARGET.SingularityImage",
        "FERMIHTC_SCHEDD_TYPE": '"CMSLPC"',
        "FERMIHTC_DRAIN_LPCSCHEDD": "false",
        "SCHEDD_ATTRS": "$(SCHEDD_ATTRS) FERMIHTC_SCHEDD_TYPE FERMIHTC_DRAIN_LPCSCHEDD",
    }
    with LocalSystem(pool=PersonalPool(apptainer=True, cpus=16, memory="80GB", config=settings)) as system:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DASK_", "HTCDASK_"))}
        environment = {
            **kept,
            **system.pool.environ,
            "HOME": str(home),
            "USER": "alice",
            "X509_USER_PROXY": str(proxy),
            "_CONDOR_DELEGATE_JOB_GSI_CREDENTIALS": "false",
            "DASK_GATEWAY__ADDRESS": system.address,
            "DASK_GATEWAY__PUBLIC_ADDRESS": "None",
            "DASK_GATEWAY__PROXY_ADDRESS": str(system.proxy_address),
            "DASK_GATEWAY__AUTH__TYPE": "basic",
            "DASK_GATEWAY_PASSWORD": system.password,
        }
        for site in sites:
            more = {"container_image": str(NCSA)} if site == "ncsa" else {}
            done = subprocess.run(
                [sys.executable, "-c", USE, json.dumps(more)],
                env={**environment, "DASK_HTCDASKGATEWAY__SITE": site},
                cwd=home,
                capture_output=True,
                text=True,
                timeout=150,
                check=False,
            )
            found = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
            said = None if found else (done.stdout + done.stderr)[-4000:]
            print("SITE", json.dumps([site, json.loads(found[0][6:]) if found else None, said]), flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4:])  # type: ignore[arg-type]
