"""What is rendered, read back by those it is for: condor_submit of a real pool, and a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import dask.config
import pytest
from support import Tools, wait_until

from htcdaskgateway import WorkerSpec
from htcdaskgateway.errors import ConfigError
from htcdaskgateway.worker import staging
from htcdaskgateway.worker.job import EXIT_UNNAMED

ADDRESS = "gateway://127.0.0.1:8786/c1"
MIB = 2**20

NASTY = [
    "it's here",
    'a "quoted" b',
    "`id`",
    "$(id)",
    "$(ClusterId)",
    "$HOME/${x}",
    "two  spaces",
    "a\\b",
    "#;&|<>*?!~%",
    "ä€",
    "--option=x",
    "a=b",
    "'",
    '"',
]
"""Values that a submit description or a shell could take for something else."""


def parsed(text):
    """Return the ads that ``condor_submit -dry-run`` prints, strings unquoted."""
    ads = []
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if line.startswith("Dry-Run"):
            continue
        if not equals:
            ads.append({}) if not ads or ads[-1] else None
            continue
        if not ads:
            ads.append({})
        if value.startswith('"') and value.endswith('"'):
            value = value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
        ads[-1][name] = value
    return [ad for ad in ads if ad]


@pytest.fixture
def dry_run(stage, pool):
    """Write a staging directory and return the first ad that HTCondor makes of it."""

    def submit(count=1, **keywords):
        made = staging.Staging("c1", WorkerSpec.from_keywords(**{"cpus": 1, **keywords}))
        made.write(ADDRESS, "CERTIFICATE", "KEY")
        out = pool.run("condor_submit", "-dry-run", "-", "worker.sub", "-queue", count, cwd=made.directory)
        return parsed(out)[0]

    return submit


# The submit description


@pytest.mark.core
def test_a_job_asks_for_what_its_worker_was_to_have_and_is_known_by_its_cluster(dry_run, stage):
    ad = dry_run(container_runtime="none", cpus=3, memory="1.5GB")
    assert ad["JobUniverse"] == "5"
    assert (ad["RequestCpus"], ad["RequestMemory"]) == ("3", "1536")
    assert ad["HTCDaskGatewayCluster"] == "c1"
    assert ad["JobBatchName"] == "htcdask-c1"
    assert ad["Iwd"] == str(stage / "c1")
    assert "RequestGPUs" not in ad
    assert ad["JobMaxVacateTime"] == "60"
    assert ad["KillSig"] == "SIGTERM"


@pytest.mark.core
def test_credentials_go_encrypted_and_nothing_comes_back(dry_run):
    ad = dry_run()
    assert {"credentials/dask.crt", "credentials/dask.pem"} <= set(ad["TransferInput"].replace(" ", "").split(","))
    assert ad["TransferOutput"] == ""
    assert ad["EncryptInputFiles"]
    assert "TARGET.HasPerFileEncryption" in ad["Requirements"]


def test_cpus_memory_disk_gpus_requirements_and_rank_are_asked_for(dry_run):
    ad = dry_run(cpus=2, memory=4096, disk="3GB", gpus=2, requirements="HasX =?= true", rank="Mips + 1")
    assert (ad["RequestCpus"], ad["RequestMemory"], ad["RequestGPUs"]) == ("2", "4096", "2")
    assert ad["RequestDisk"] == str(3 * 2**20)
    assert "HasX =?= true" in ad["Requirements"]
    assert ad["Rank"] in ("Mips + 1", "(Mips + 1)", "Mips + 1.0")


def test_a_sites_own_lines(dry_run):
    ad = dry_run(
        job_extra_directives={
            "accounting_group": "physics.atlas",
            "accounting_group_user": "me",
            "+Site": '"ICC"',
            "My.Flag": True,
            "concurrency_limits": "licence:2",
        }
    )
    assert (ad["AcctGroup"], ad["AcctGroupUser"], ad["AccountingGroup"]) == (
        "physics.atlas",
        "me",
        "physics.atlas.me",
    )
    assert (ad["Site"], ad["Flag"], ad["ConcurrencyLimits"]) == ("ICC", "true", "licence:2")


OURS = [
    "Args", "Arguments", "Cmd", "DontEncryptInputFiles", "EncryptInputFiles", "Err", "HTCDaskGatewayCluster", "In",
    "Iwd", "JobMaterializeLimit", "JobMaterializeMaxIdle", "JobUniverse", "Out", "ShouldTransferFiles",
    "TransferExecutable", "TransferInput", "TransferOutput", "UserLog",
]  # fmt: skip
"""Attributes of a job by which it, or its credentials, would be lost."""

COMMANDS = [
    "arguments", "dont_encrypt_input_files", "encrypt_input_files", "error", "executable", "initialdir",
    "initial_dir", "input", "iwd", "log", "materialize_max_idle", "max_idle", "max_materialize", "output",
    "should_transfer_files", "stderr", "stdin", "stdout", "transfer_executable", "transfer_input_files",
    "TransferInputFiles", "transfer_output_files", "TransferOutputFiles", "universe",
]  # fmt: skip
"""Submit commands that set them."""


def test_no_line_of_a_site_changes_what_would_lose_jobs_or_credentials(dry_run):
    plain = dry_run()
    refused = 0
    for name in [*COMMANDS, *OURS, *(f"+{name}" for name in OURS), *(f"MY.{name.lower()}" for name in OURS)]:
        try:
            ad = dry_run(job_extra_directives={name: '"mine"' if name.startswith(("+", "MY.")) else "mine"})
        except ConfigError:
            refused += 1
            continue
        assert [ad.get(attribute) for attribute in OURS] == [plain.get(attribute) for attribute in OURS], name
    assert refused > len(OURS)


def test_what_becomes_of_a_job_is_htcondors_to_read(dry_run):
    ad = dry_run(max_idle_time="2h", max_held_time="3m")
    assert "ExitCode =?= 0" in ad["OnExitRemove"]
    assert "NumJobCompletions >= 3" in ad["OnExitHold"]
    assert "the Dask worker failed 3 times" in ad["OnExitHoldReason"]
    assert "> 7200" in ad["PeriodicRemove"]
    assert "> 180" in ad["PeriodicRemove"]


def test_nothing_in_a_description_is_unknown_to_htcondor(dry_run, pool, stage):
    """A typo in a submit command is a warning only."""
    dry_run(container_image="/x.sif", container_runtime="htcondor", disk="1G", gpus=1, rank="1")
    done = subprocess.run(
        [pool.bin / "condor_submit", "-dry-run", "-", "worker.sub", "-queue", "1"],
        cwd=stage / "c1",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "WARNING" not in done.stderr


@pytest.mark.core
@pytest.mark.parametrize("name", NASTY)
def test_an_image_reaches_htcondors_container_universe_as_it_is(dry_run, name):
    image = f"/images/{name}.sif"
    ad = dry_run(container_image=image, container_runtime="htcondor")
    # An image that is a file travels with the job and is known there by its last name.
    assert ad["ContainerImage"] == image.rpartition("/")[2]
    assert image in ad["TransferInput"].split(",")
    assert ad["WantContainer"] == "true"


def test_an_image_from_a_registry(dry_run):
    ad = dry_run(container_image="docker://example.org/a/b:latest", container_runtime="htcondor")
    assert ad["ContainerImage"] in ("docker://example.org/a/b:latest", "example.org/a/b:latest")
    assert ad["WantContainer"] == "true"


@pytest.mark.parametrize("runtime", ["apptainer", "none"])
def test_another_runtime_is_a_plain_job_for_htcondor(dry_run, runtime):
    image = "/images/x.sif" if runtime == "apptainer" else None
    ad = dry_run(container_image=image, container_runtime=runtime)
    assert ad["JobUniverse"] == "5"
    assert "ContainerImage" not in ad
    assert "x.sif" not in ad["TransferInput"]


@pytest.mark.parametrize("name", [name for name in NASTY if name not in ("$(ClusterId)", "$HOME/${x}")])
def test_a_directory_of_logs_is_taken_as_it_is(dry_run, tmp_path, name):
    directory = tmp_path / name.replace("/", "_")
    ad = dry_run(log_directory=str(directory))
    assert ad["Out"].startswith(f"{directory}/c1/worker-")
    assert ad["UserLog"] == f"{directory}/c1/condor.log"
    assert (directory / "c1").is_dir()


def test_a_spooled_job_writes_beside_itself(dry_run):
    ad = dry_run(spool=True)
    assert "/" not in ad["Out"].removeprefix("./")


@pytest.mark.core
def test_one_description_for_any_number(dry_run, pool, stage):
    dry_run(3)
    out = pool.run("condor_submit", "-dry-run", "-", "worker.sub", "-queue", 3, cwd=stage / "c1")
    ads = parsed(out)
    assert len(ads) == 3
    # What is the same for all is written once: a job's own attributes cost the schedd time.
    assert all(ad.keys() == {"ProcId", "JobStatus"} for ad in ads[1:])


@pytest.mark.core
def test_by_hand_three_jobs_more(stage, pool):
    """What the comment at the head of worker.sub says; nothing runs, since no machine is good enough."""
    spec = WorkerSpec.from_keywords(requirements="HasNoSuchThing")
    made = staging.Staging("by-hand", spec)
    made.write("gateway://127.0.0.1:8786/by-hand", "CERTIFICATE", "KEY")
    assert "condor_submit worker.sub -queue 3" in made.description.read_text()
    try:
        pool.run("condor_submit", "worker.sub", "-queue", 3, cwd=made.directory)
        assert pool.statuses("by-hand") == [1, 1, 1]
    finally:
        pool.run("condor_rm", "-constraint", 'HTCDaskGatewayCluster == "by-hand"')
    wait_until(lambda: not pool.jobs("by-hand"), what="the jobs are gone")


def test_two_templates_of_a_site(dry_run, tmp_path, stage):
    site = tmp_path / "site"
    site.mkdir()
    (site / "worker.sub.j2").write_text("executable = worker.sh\nMy.OfTheSite = {{ cluster | classad | submit }}\n")
    (site / "worker.sh.j2").write_text("#!/bin/sh\n# the site's\nexec {{ command | map('sh') | join(' ') }}\n")
    with dask.config.set({"htcdaskgateway.template-directory": str(site)}):
        ad = dry_run()
    assert ad["OfTheSite"] == "c1"
    script = (stage / "c1" / "worker.sh").read_text()
    assert script.startswith(f"#!/bin/sh\n# the site's\nexec {sys.executable} worker_start.py tls://")


# The script

SHOW = f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n"


@pytest.fixture
def started(stage, tmp_path, bare):
    """Run a rendered worker.sh as HTCondor would; return the arguments and environment of what it starts."""
    show = tmp_path / "show it"
    show.write_text(SHOW)
    show.chmod(0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def run(start=2, path=None, ad=None, where=None, cwd=scratch, crowd=1, **keywords):
        (scratch / ".job.ad").write_text(
            f"ClusterId = 17\nProcId = 3\nNumShadowStarts = {start}\nTotalSubmitProcs = {crowd}\n"
            'X = "ClusterId = 9"\n'
            'GlobalJobId = "schedd@login1.example.org#17.3#1700000000"\n'
        )
        made = staging.Staging("c1", WorkerSpec.from_keywords(**keywords))
        made.write(ADDRESS, "CERTIFICATE", "KEY")
        done = subprocess.run(
            ["/bin/sh", str(made.directory / "worker.sh")],
            cwd=cwd,
            env={
                "_CONDOR_JOB_AD": ad or str(scratch / ".job.ad"),
                **({"PATH": path} if path else {}),
                **(where or {}),
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        *words, last = done.stdout.splitlines()
        return (*json.loads(last), words)

    run.show = str(show)
    run.scratch = str(scratch)
    return run


def options(arguments):
    return {name: value for name, value in zip(arguments, [*arguments[1:], ""], strict=True) if name[:2] == "--"}


@pytest.mark.core
def test_the_script_starts_a_worker_whose_name_leads_back_to_the_job(started):
    arguments, environment, words = started(container_runtime="none", python=started.show, cpus=2, memory="2GB")
    assert arguments[:2] == ["worker_start.py", "tls://127.0.0.1:8786"]
    assert options(arguments) | {"--name": "", "--local-directory": ""} == {
        "--scheduler-sni": "daskgateway-c1",
        "--tls-ca-file": "dask.crt",
        "--tls-cert": "dask.crt",
        "--tls-key": "dask.pem",
        "--preload": "worker_preload.py",
        "--nthreads": "2",
        "--memory-limit": str(2048 * MIB),
        "--death-timeout": "60",
        "--worker-port": "10000:10070",
        "--dashboard-address": "127.0.0.1:0",
        "--no-nanny": "--no-dashboard",
        "--no-dashboard": "--name",
        "--name": "",
        "--local-directory": "",
    }
    assert options(arguments)["--name"] == "htcondor-17.3-2@schedd@login1.example.org"
    assert options(arguments)["--local-directory"] == started.scratch
    assert environment["DASK_GATEWAY_WORKER_NAME"] == "htcondor-17.3-2@schedd@login1.example.org"
    assert environment["DASK_GATEWAY_CLUSTER_NAME"] == "c1"
    assert environment["HOME"] == started.scratch
    assert environment["PATH"]
    assert "htcondor-17.3-2@schedd@login1.example.org starts on" in words[0]


def test_a_sites_wrapper_may_hide_the_jobs_ad(started):
    arguments, _, _ = started(container_runtime="none", python=started.show, ad="/nowhere/.job.ad")
    assert options(arguments)["--name"].startswith("htcondor-17.3-2@")
    Path(started.scratch, "elsewhere").mkdir()
    arguments, _, _ = started(
        container_runtime="none",
        python=started.show,
        ad="/nowhere/.job.ad",
        where={"_CONDOR_SCRATCH_DIR": started.scratch},
        cwd=Path(started.scratch, "elsewhere"),
    )
    assert options(arguments)["--name"].startswith("htcondor-17.3-2@")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        started(container_runtime="none", ad="/nowhere/.job.ad", cwd=Path(started.scratch, "elsewhere"))
    assert caught.value.returncode == EXIT_UNNAMED
    assert "the job's ad cannot be read, neither where _CONDOR_JOB_AD says" in caught.value.stderr


@pytest.mark.core
def test_environment_and_arguments_arrive_as_they_are(started):
    variables = {f"VALUE_{number}": value for number, value in enumerate(NASTY)}
    arguments, environment, _ = started(
        container_runtime="none",
        python=started.show,
        environment={**variables, "EMPTY": ""},
        worker_extra_args=["--preload", "mine.py", *NASTY],
        interface="lo",
    )
    assert {name: environment[name] for name in variables} == variables
    assert environment["EMPTY"] == ""
    assert arguments[-len(NASTY) :] == NASTY
    assert options(arguments)["--interface"] == "lo"


@pytest.mark.core
def test_a_worker_has_the_environment_that_a_nanny_would_give_it(started):
    def environment(**asked):
        _, found, _ = started(container_runtime="none", python=started.show, cpus=2, environment=asked)
        return found

    found = environment(MKL_NUM_THREADS="7", OPENBLAS_NUM_THREADS=None)
    assert (found["OMP_NUM_THREADS"], found["MALLOC_TRIM_THRESHOLD_"]) == ("1", "65536")
    assert found["MKL_NUM_THREADS"] == "7"
    assert "OPENBLAS_NUM_THREADS" not in found
    own = {"pre-spawn-environ": {"OMP_NUM_THREADS": None, "A": 1}, "environ": {"A": "$HOME", "B": "x y"}}
    with dask.config.set({f"distributed.nanny.{key}": value for key, value in own.items()}):
        found = environment(B="asked for")
    assert (found["A"], found["B"]) == ("$HOME", "asked for")
    assert "OMP_NUM_THREADS" not in found


@pytest.mark.core
@pytest.mark.parametrize("wrong", [{"A B": "1"}, {"A": "1\n2"}, "A=1"])
def test_an_environment_of_a_nanny_that_cannot_be_set_is_refused(started, wrong):
    with (
        dask.config.set({"distributed.nanny.environ": wrong}),
        pytest.raises(ConfigError, match=r"distributed\.nanny\.environ"),
    ):
        started(container_runtime="none", python=started.show)


@pytest.mark.parametrize(
    ("interval", "start", "slept"),
    [("0s", 1, []), ("50ms", 1, ["0"]), ("700ms", 1, ["2"]), ("1.5s", 1, ["4"]), ("1.5s", 2, [])],
)
def test_workers_asked_for_at_once_take_turns(started, tmp_path, interval, start, slept):
    # A sleep that only says how long it was to be.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sleep").write_text('#!/bin/sh\necho "slept $*"\n')
    (tmp_path / "bin/sleep").chmod(0o755)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    *_, words = started(start, path, container_runtime="none", python=started.show, start_interval=interval)
    assert [word.removeprefix("slept ") for word in words if word.startswith("slept ")] == slept


@pytest.mark.core
@pytest.mark.parametrize(
    ("asked", "crowd", "expected"),
    [(None, 1, "60"), (None, 600, "60"), (None, 2000, "200"), ("30s", 2000, "30")],
)
def test_workers_that_are_asked_for_by_the_thousand_have_longer_to_join(started, asked, crowd, expected):
    arguments, _, _ = started(container_runtime="none", python=started.show, death_timeout=asked, crowd=crowd)
    assert options(arguments)["--death-timeout"] == expected


def test_the_sites_lines_run_before_the_worker_and_in_its_shell(started):
    _, environment, words = started(
        container_runtime="none",
        python=started.show,
        job_script_prologue=["export MODULE=loaded", "echo from the prologue"],
    )
    assert environment["MODULE"] == "loaded"
    assert words[1:] == ["from the prologue"]


@pytest.mark.parametrize("name", NASTY)
def test_an_image_reaches_apptainer_as_it_is(started, name):
    image = f"/images/{name}.sif"
    arguments, environment, _ = started(
        container_image=image,
        container_runtime="apptainer",
        container_command=started.show,
        container_binds=["/scratch", f"/host/{name}:/inside:ro"],
        container_options=["--nv"],
        environment={"A": name},
        python="/opt/python",
    )
    at = arguments.index(image)
    assert arguments[:2] == ["exec", "--cleanenv"]
    binds = [value for name, value in pairwise(arguments[:at]) if name == "--bind"]
    assert binds == [started.scratch, "/scratch", f"/host/{name}:/inside:ro"]
    assert arguments[at - 1] == "--nv"
    assert options(arguments[:at])["--pwd"] == started.scratch
    assert arguments[at + 1 : at + 3] == ["/opt/python", "worker_start.py"]
    assert environment["APPTAINERENV_A"] == name
    assert environment["APPTAINERENV_DASK_GATEWAY_WORKER_NAME"] == "htcondor-17.3-2@schedd@login1.example.org"


@pytest.mark.core
def test_the_worker_takes_the_place_of_the_script(started, tmp_path):
    """HTCondor's SIGTERM reaches the job's first process only."""
    parent = tmp_path / "parent"
    parent.write_text(f"#!{sys.executable}\nimport os\nprint('[[],{{\"pid\": %d}}]' % os.getpid())\n")
    parent.chmod(0o755)
    _, environment, words = started(container_runtime="none", python=str(parent), job_script_prologue=['echo "$$"'])
    assert int(words[-1]) == environment["pid"]


def test_tools_that_are_watched_pass_everything_on(tmp_path):
    """The fixture of other tests: arguments arrive, are noted, and the exit code comes back."""
    real = tmp_path / "real"
    real.mkdir()
    (real / "condor_q").write_text('#!/bin/sh\nprintf "%s\\n" "$@"; exit 3\n')
    (real / "condor_q").chmod(0o755)
    tools = Tools(tmp_path / "tools", real)
    for _ in range(2):
        done = subprocess.run(
            [tools.directory / "condor_q", *NASTY, ""], capture_output=True, text=True, check=False
        )
    assert done.returncode == 3
    assert done.stdout.split("\n")[:-1] == [*NASTY, ""]
    assert tools.calls == [["condor_q", *NASTY, ""]] * 2
