"""What answers the limits of a large cluster: settings that are refused, and one that spreads workers' starts."""

from __future__ import annotations

import subprocess

import pytest

from htcdaskgateway.errors import ConfigError
from htcdaskgateway.worker import staging
from htcdaskgateway.worker.spec import WorkerSpec

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("bare")]


@pytest.mark.parametrize("name", ["max_idle", "max_materialize", "Max_Idle"])
def test_late_materialization_is_refused_since_condor_q_does_not_count_it(name):
    with pytest.raises(ConfigError, match=f"{name}.*count"):
        WorkerSpec.from_keywords(container_runtime="none", job_extra_directives={name: "20"})


@pytest.mark.parametrize(("proc", "seconds"), [(0, "0"), (19, "0"), (20, "1"), (999, "49")])
def test_the_prologue_knows_the_number_of_the_job_and_can_spread_the_starts(stage, tmp_path, proc, seconds):
    (tmp_path / "ad").write_text(f"ClusterId = 7\nProcId = {proc}\nNumShadowStarts = 1\n")
    prologue = ["sleep() { echo waits $1; }", "sleep $((ProcId / 20))"]
    spec = WorkerSpec.from_keywords(container_runtime="none", python="true", job_script_prologue=prologue)
    made = staging.Staging("c1", spec)
    made.write("gateway://127.0.0.1:8786/c1", "CERTIFICATE", "KEY")
    done = subprocess.run(
        ["/bin/sh", str(made.directory / "worker.sh")],
        cwd=tmp_path,
        env={"_CONDOR_JOB_AD": str(tmp_path / "ad")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"waits {seconds}" in done.stdout.splitlines()
