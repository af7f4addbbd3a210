"""Workers with the notebook's own packages, on a real pool."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.long

LOOK = """
        import json, os, sys
        from pathlib import Path
        from htcdaskgateway import HTCGateway

        def look():
            import json, multiprocessing, ssl, subprocess, sys
            import beside, fresh, numpy
            child = "import beside, fresh, numpy, sys; print(sys.prefix)"
            spawned = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, timeout=60)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                root = pool.apply(pow, (3, 2))
            return {
                "fresh": fresh.VALUE,
                "beside": beside.VERSION,
                "file": beside.__file__,
                "prefix": sys.prefix,
                "numpy": numpy.__file__,
                "child": spawned.stdout.strip() or spawned.stderr,
                "spawned": root,
                "certificates": bool(ssl.create_default_context().get_ca_certs()),
            }

        def version():
            import beside
            return beside.VERSION

        def work(place):
            with open(place, "a") as file:
                file.write("ran ")
            return 42
"""


@pytest.mark.core
def test_workers_have_what_was_installed_a_minute_ago_and_an_edit_comes_to_those_that_run(notebook):
    notebook.install("fresh", "VALUE = 'installed'\n")
    told = notebook.run(
        LOOK
        + """
        with HTCGateway() as gateway:
            cluster = gateway.new_cluster(packages="notebook", cpus=1, memory="500MB")
            try:
                cluster.scale(1)
                cluster.wait_for_workers(1, timeout=100)
                client = cluster.get_client()
                seen = client.submit(look).result(timeout=60)
                kept = client.submit(work, os.path.abspath("ran"))
                kept.result(timeout=60)
                jobs = [str(job.id) for job in cluster.jobs()]
                import beside
                by_name = [client.submit(beside.times, 21).result(timeout=60)]
                Path("beside.py").write_text("VERSION = 2\\ndef halves(x): return x / VERSION\\n")
                synced = cluster.sync_packages()
                again = client.submit(version, pure=False).result(timeout=60)
                import importlib
                by_name.append(client.submit(importlib.reload(beside).halves, 42).result(timeout=60))
                print(json.dumps({
                    "by name": by_name, "seen": seen, "again": again,
                    "kept": kept.result(timeout=60), "ran": Path("ran").read_text(),
                    "said": str(synced), "workers": synced.workers,
                    "sent": synced.sent, "changed": synced.packages_changed,
                    "same jobs": [str(job.id) for job in cluster.jobs()] == jobs,
                    "nothing new": cluster.sync_packages().workers,
                }))
            finally:
                cluster.shutdown()
        """
    )
    seen = told["seen"]
    assert seen["fresh"] == "installed"
    assert seen["beside"] == 1
    assert "/local" in seen["file"]
    assert seen["prefix"] in seen["numpy"]
    assert seen["prefix"] == seen["child"]
    assert seen["spawned"] == 9
    assert seen["certificates"]
    assert str(notebook.directory.parent) not in seen["prefix"]
    assert told["again"] == 2, told["said"]
    # The scheduler reads a graph before a worker does.
    assert told["by name"] == [42, 21.0]
    assert told["kept"] == 42
    assert told["ran"] == "ran "
    assert (told["workers"], told["nothing new"]) == (1, 0)
    assert told["same jobs"]
    assert not told["changed"]


def test_a_node_that_has_the_packages_is_not_sent_them_and_one_that_lost_them_is(notebook, shared):
    told = notebook.run(
        """
        import json, os, shutil, time
        from pathlib import Path
        from htcdaskgateway import HTCGateway

        def here():
            import os, sys
            return {"prefix": sys.prefix, "files": os.listdir()}

        def wait_until(condition):
            deadline = time.monotonic() + 60
            while not condition():
                assert time.monotonic() < deadline
                time.sleep(0.1)

        def began(cluster, client):
            cluster.scale(1)
            cluster.wait_for_workers(1, timeout=100)
            seen = client.submit(here, pure=False).result(timeout=60)
            asked = ["NumShadowStarts", "ExitCode", "NumHolds"]
            runs = f'HTCDaskGatewayCluster == "{cluster.name}" && JobStatus == 2'
            ad, = gateway.sync(cluster.fleet.condor.query, runs, asked)
            return {**ad, **seen}

        with HTCGateway() as gateway:
            cluster = gateway.new_cluster(packages="notebook", cpus=1, memory="500MB")
            try:
                client = cluster.get_client()
                first = began(cluster, client)
                known = Path(os.environ["XDG_CACHE_HOME"], "htcdaskgateway/packages/known/nodes.json")
                stage = cluster.fleet.staging.description
                wait_until(lambda: "HTCDaskPackagesOn" in stage.read_text())
                cluster.scale(0)
                second = began(cluster, client)
                cluster.scale(0)
                for tree in filter(Path.is_dir, Path(first["prefix"]).parent.iterdir()):
                    shutil.rmtree(tree)
                third = began(cluster, client)
                print(json.dumps([first, second, third]))
            finally:
                cluster.shutdown()
        """,
        DASK_HTCDASKGATEWAY__PACKAGES__NODE_DIRECTORIES=json.dumps([str(shared)]),
    )
    first, second, third = told
    assert first["prefix"].startswith(f"{shared}/htcdask-")
    assert {seen["prefix"] for seen in told} == {first["prefix"]}
    assert "none" not in first["files"]
    assert "none" in second["files"]
    assert [seen["NumShadowStarts"] for seen in told] == [1, 1, 2]
    # It ended with a code of its own, which is no failure, and the next start brought them.
    assert (third["ExitCode"], third.get("NumHolds", 0)) == (76, 0)
    assert "none" not in third["files"]


def test_an_edit_during_work_reaches_all_processes_of_a_job_and_their_nannies_and_no_result_is_lost(notebook):
    told = notebook.run(
        """
        import json, os
        from pathlib import Path
        from htcdaskgateway import HTCGateway

        def version(*_):
            import beside
            return beside.VERSION

        def made(number, place):
            with open(place, "a") as file:
                file.write(f"{number} ")
            return number

        def slow(number, place, go):
            import os, time
            with open(place, "a") as file:
                file.write(f"{number} ")
            while not os.path.exists(go):
                time.sleep(0.05)
            return number

        with HTCGateway() as gateway:
            cluster = gateway.new_cluster(
                packages="notebook", cpus=2, processes=2, nanny=True, memory="1GB", death_timeout="120s"
            )
            try:
                cluster.scale(2)
                cluster.wait_for_workers(2, timeout=100)
                client = cluster.get_client()
                kept = client.map(made, range(20), place=os.path.abspath("made"))
                client.gather(kept)
                begun = client.map(slow, range(2), place=os.path.abspath("begun"), go=os.path.abspath("go"))
                while not Path("begun").exists() or len(Path("begun").read_text().split()) < 2:
                    pass
                Path("beside.py").write_text("VERSION = 2\\n")
                synced = cluster.sync_packages()
                Path("go").touch()
                print(json.dumps({
                    "workers": synced.workers, "versions": list(client.run(version).values()),
                    "kept": client.gather(kept) == list(range(20)), "made": len(Path("made").read_text().split()),
                    "begun": client.gather(begun), "jobs": len(cluster.jobs()),
                }))
            finally:
                cluster.shutdown()
        """
    )
    assert told["workers"] == 2
    assert told["versions"] == [2, 2]
    # What had been computed was handed over, and what ran at that moment has run again.
    assert (told["kept"], told["made"]) == (True, 20)
    assert told["begun"] == [0, 1]
    assert told["jobs"] == 1


def test_a_task_that_fails_for_lack_of_code_that_was_edited_meanwhile_says_what_helps(notebook):
    told = notebook.run(
        """
        import importlib, json, sys, time, warnings
        from pathlib import Path
        from htcdaskgateway import HTCGateway
        import beside

        def use(name):
            import importlib
            return importlib.import_module(name).VALUE

        def fails(client, *arguments, hint=None):
            # A slow machine may look at what failed before when the next file has changed already.
            def hints():
                said = [str(warning.message) for warning in caught if "a task failed" in str(warning.message)]
                return [text for text in said if hint is None or hint in text]

            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                error = client.submit(*arguments, pure=False).exception(timeout=60)
                deadline = time.monotonic() + (60 if hint else 2)
                while time.monotonic() < deadline and not hints():
                    time.sleep(0.05)
            return [type(error).__name__, *hints()]

        with HTCGateway() as gateway:
            cluster = gateway.new_cluster(packages="notebook", cpus=1, memory="500MB")
            try:
                cluster.scale(1)
                cluster.wait_for_workers(1, timeout=100)
                client = cluster.get_client()
                told = {"nothing changed": fails(client, use, "not_there")}
                Path("newer.py").write_text("VALUE = 3\\n")
                told["a new module"] = fails(client, use, "newer", hint="newer")
                Path("beside.py").write_text("def newest(x): return x\\n")
                told["a new function"] = fails(client, importlib.reload(beside).newest, 1, hint="newest")
                cluster.sync_packages()
                told["synced"] = client.gather([client.submit(use, "newer"), client.submit(beside.newest, 1)])
                site = Path(next(path for path in sys.path if path.endswith("site-packages")))
                (site / "installed.py").write_text("VALUE = 4\\n")
                told["a new package"] = fails(client, use, "installed", hint="installed'")
                print(json.dumps(told))
            finally:
                cluster.shutdown()
        """
    )
    assert told["nothing changed"] == ["ModuleNotFoundError"]
    hint = "No module named 'newer', and the local code has changed since: cluster.sync_packages()"
    assert hint in told["a new module"][1]
    # That one fails at the scheduler, which reads the graph.
    assert "newest" in told["a new function"][1]
    assert told["synced"] == [3, 1]
    assert "the installed packages have changed since" in told["a new package"][1]


def test_two_environments_at_once_each_have_their_own_and_spooled_jobs_bring_theirs_along(notebook, shared):
    told = notebook.run(
        """
        import json, os, subprocess, sys
        from pathlib import Path
        from htcdaskgateway import HTCGateway

        def look():
            import only_here, sys
            return [only_here.VALUE, sys.prefix]

        def environment(name):
            place = Path.cwd().parent / name
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True, timeout=60)
            (site,) = place.glob("lib/python3*/site-packages")
            (site / "tests.pth").write_text(f"{TESTS}\\n")
            (site / "only_here.py").write_text(f"VALUE = {name!r}\\n")
            return str(place)

        TESTS = next(path for path in reversed(sys.path) if path.endswith("site-packages"))
        with HTCGateway() as gateway:
            asked = {"cpus": 1, "memory": "500MB"}
            first = gateway.new_cluster(packages=environment("first"), **asked)
            second = gateway.new_cluster(packages=environment("second"), spool=True, **asked)
            try:
                told = []
                for cluster in (first, second):
                    cluster.scale(1)
                for cluster in (first, second):
                    cluster.wait_for_workers(1, timeout=150)
                    told.append(cluster.get_client().submit(look).result(timeout=60))
                print(json.dumps(told))
            finally:
                first.shutdown()
                second.shutdown()
        """,
        DASK_HTCDASKGATEWAY__PACKAGES__NODE_DIRECTORIES=json.dumps([str(shared)]),
    )
    (first, there), (second, here) = told
    assert (first, second) == ("first", "second")
    assert there != here
    assert all(prefix.startswith(f"{shared}/htcdask-") for prefix in (there, here))


def test_jobs_that_the_schedd_makes_later_have_the_packages_as_they_are_then(notebook, shared):
    told = notebook.run(
        """
        import json
        from pathlib import Path
        from htcdaskgateway import HTCGateway

        def look():
            import beside, os, sys
            return [beside.VERSION, sys.prefix, "none" in os.listdir()]

        with HTCGateway() as gateway:
            # The schedd makes the second job when the first has started, from what is staged then.
            cluster = gateway.new_cluster(packages="notebook", cpus=1, memory="500MB", max_idle=1)
            try:
                client = cluster.get_client()
                cluster.scale(2)
                cluster.wait_for_workers(2, timeout=200)
                first = list(client.run(look).values())
                submits = {job.id.cluster for job in cluster.jobs()}
                Path("beside.py").write_text("VERSION = 2\\n")
                synced = cluster.sync_packages().workers
                cluster.scale(3)
                cluster.wait_for_workers(3, timeout=200)
                print(json.dumps([first, len(submits), synced, list(client.run(look).values())]))
            finally:
                cluster.shutdown()
        """,
        DASK_HTCDASKGATEWAY__PACKAGES__NODE_DIRECTORIES=json.dumps([str(shared)]),
    )
    first, submits, synced, later = told
    ((_, prefix, _),) = {tuple(seen) for seen in first}
    assert prefix.startswith(f"{shared}/htcdask-")
    assert (submits, synced) == (1, 2)
    # No file is left out at the moment of a start, though the node has the packages.
    assert later == [[2, prefix, False]] * 3
