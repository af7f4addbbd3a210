"""Packages at their own path in a container: a squashfs that Apptainer binds."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import dask.config
import pytest

from htcdaskgateway.errors import ConfigError
from htcdaskgateway.local import LocalSystem, PersonalPool
from htcdaskgateway.local.processes import run
from htcdaskgateway.packages import packing
from htcdaskgateway.packages.squashfs import Layout, Squashing
from htcdaskgateway.worker.spec import WorkerSpec

ASKED = {"packages": "notebook", "container_runtime": "apptainer", "container_image": "/an/image.sif"}


@pytest.fixture(scope="module")
def system(bare_image):
    with (
        LocalSystem(pool=PersonalPool(apptainer=True)) as running,
        dask.config.set({"htcdaskgateway.condor.poll-interval": "100ms"}),
    ):
        yield running


@pytest.mark.long
def test_an_environment_lies_at_its_own_path_in_an_image_without_python_and_takes_edits(
    notebook, bare_image, tools
):
    notebook.install("fresh", "VALUE = 'installed'\n")
    told = notebook.run(
        """
        import json, sys
        from pathlib import Path
        from htcdaskgateway import HTCGateway

        def look():
            import json, multiprocessing, os, ssl, subprocess, sys
            import beside, fresh, numpy
            child = "import beside, fresh, sys; print(sys.executable)"
            done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, timeout=60)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                spawned = pool.apply(pow, (3, 2))
            return {
                "fresh": fresh.__file__, "beside": beside.VERSION, "executable": sys.executable,
                "child": done.stdout.strip() or done.stderr, "spawned": spawned, "numpy": numpy.__file__,
                "certificates": bool(ssl.create_default_context().get_ca_certs()),
                "read only": not os.access(sys.prefix, os.W_OK),
            }

        def version():
            import beside
            return beside.VERSION

        with HTCGateway() as gateway:
            cluster = gateway.new_cluster(
                packages="notebook", container_image=sys.argv[1], container_runtime="apptainer",
                cpus=1, memory="500MB",
            )
            try:
                cluster.scale(1)
                cluster.wait_for_workers(1, timeout=150)
                client = cluster.get_client()
                seen = client.submit(look).result(timeout=60)
                kept = client.submit(pow, 2, 3)
                kept.result(timeout=60)
                Path("beside.py").write_text("VERSION = 2\\n")
                synced = cluster.sync_packages().workers
                again = client.submit(version, pure=False).result(timeout=60)
                import numpy
                print(json.dumps([seen, sys.executable, numpy.__file__, synced, again, kept.result(timeout=60)]))
            finally:
                cluster.shutdown()
        """.replace("sys.argv[1]", repr(str(bare_image))),
        PATH=tools,
    )
    seen, executable, numpy, synced, again, kept = told
    assert (seen["executable"], seen["child"]) == (executable, executable)
    assert seen["numpy"] == numpy
    assert seen["fresh"] == str(notebook.site / "fresh" / "__init__.py")
    assert (seen["beside"], seen["spawned"], seen["certificates"], seen["read only"]) == (1, 9, True, True)
    assert (synced, again, kept) == (1, 2, 8)


def test_an_image_goes_with_packages_where_apptainer_starts_it_and_only_there():
    spec = WorkerSpec.from_keywords(**ASKED)
    assert spec.packages_image
    assert spec.container_image == "/an/image.sif"
    assert WorkerSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(ConfigError, match=r"exclude each other.*container_runtime='apptainer'"):
        WorkerSpec.from_keywords(**{**ASKED, "container_runtime": "htcondor"})
    with pytest.raises(ConfigError, match="exclude each other"):
        WorkerSpec.from_keywords(**ASKED, python="/usr/bin/python3")
    # What is configured for containers is not meant for the packages.
    with dask.config.set({"htcdaskgateway.worker.container-runtime": "apptainer"}):
        assert not WorkerSpec.from_keywords(packages="notebook").packages_image


def test_without_mksquashfs_an_error_says_so_at_once(small, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"need mksquashfs here.*install squashfs-tools"):
        packing.check(str(small.path), image=True)


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_a_python_of_the_system_does_not_hide_the_images_files(monkeypatch, prefix):
    monkeypatch.setattr("htcdaskgateway.packages.squashfs._program", lambda: "mksquashfs")
    system = dataclasses.replace(packing.Environment.of("notebook"), prefix=prefix, base_prefix=prefix)
    with pytest.raises(ConfigError, match=rf"all of {prefix} would hide the image's.*python -m venv"):
        Squashing.check(system)


def test_a_path_that_cannot_be_bound_is_an_error_at_once(tools, monkeypatch, tmp_path, environment):
    monkeypatch.setenv("PATH", tools)
    (tmp_path / "a,b").mkdir()
    with pytest.raises(ConfigError, match=r"a,b.*cannot be bound into a container"):
        packing.check(str(environment(tmp_path / "a,b").path), image=True)


@pytest.mark.long
def test_a_mksquashfs_that_fails_leaves_nothing_behind(small, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program = tmp_path / "mksquashfs"
    program.write_text('#!/bin/sh\n: > "$2"\necho "-tar: invalid option" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(packing.StagingError, match=r"squashfs-tools 4\.5 or newer.*invalid option"):
        packing.pack(str(small.path), image=True)
    assert not [path.name for path in (tmp_path / "cache").rglob("*.sqsh*")]


@pytest.mark.long
def test_a_squashfs_is_made_once_and_holds_what_is_installed(tools, small, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", tools)
    small.install("pack_me", "VALUE = 'first'\n")
    packed = packing.pack(str(small.path), image=True)
    before = os.stat(packed.archives["packages.sqsh"])
    assert packing.pack(str(small.path), image=True) == packed
    assert os.stat(packed.archives["packages.sqsh"]) == before
    listed = run(["unsquashfs", "-l", packed.archives["packages.sqsh"]], timeout=60, env={**os.environ}).stdout
    for path in (f"{small.site}/pack_me/__init__.py", f"{small.path}/pyvenv.cfg", os.path.realpath(sys.executable)):
        assert f"squashfs-root{path}\n" in listed
    assert packed.program == f"{small.path}/bin/python"
    small.install("pack_me", "VALUE = 'second'\n")
    assert packing.pack(str(small.path), image=True).key != packed.key


def test_all_of_an_environment_lies_below_what_is_bound(small):
    layout = Layout(packing.Environment.of(str(small.path)))
    binds = layout.binds()
    assert all(
        file.path in binds or file.path.startswith(tuple(f"{bind}/" for bind in binds))
        for file in layout.files(frozenset())
    )
    done = subprocess.run([small.path / "bin" / "python", "-c", "print('runs')"], capture_output=True, timeout=60)
    assert done.stdout == b"runs\n"
