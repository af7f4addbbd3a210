"""HTCondor's command line: where the tools are found, and what their answers mean. The tools are made up here."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path

import dask.config
import pytest
from support import running_processes, wait_until

from htcdaskgateway import errors
from htcdaskgateway.condor import Condor
from htcdaskgateway.condor.ads import Ads
from htcdaskgateway.condor.quoting import quote_classad
from htcdaskgateway.condor.schedd import check_schedd
from htcdaskgateway.condor.tools import find_bin_dir, tool_environment

pytestmark = pytest.mark.usefixtures("bare")

NO_MATCH = "Couldn't find/remove all jobs matching constraint (false)\n"
TOTALS = "\n\n-- Schedd: schedd@ : <127.0.0.1:9618?... @ 01/01/26\nTotal for query: {} jobs; 0 completed\n"


@pytest.fixture
def condor(fake_tools):
    return Condor(timeout=30)


def query(condor):
    return asyncio.run(condor.query("true", ["ClusterId", "ProcId"]))


def submit(condor, tmp_path, count=2, **options):
    (tmp_path / "worker.sub").write_text("")
    return asyncio.run(condor.submit(tmp_path / "worker.sub", count, **options))


def remove(condor, **options):
    return asyncio.run(condor.remove("true", **options))


# Where the tools are


def test_the_environment_variable_is_taken_at_its_word(fake_tools, tmp_path, monkeypatch):
    assert find_bin_dir() == fake_tools.directory
    monkeypatch.setenv("CONDOR_BIN_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", str(fake_tools.directory))
    with pytest.raises(errors.CondorNotFoundError, match="CONDOR_BIN_DIR") as caught:
        find_bin_dir()
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "which condor_q" in str(caught.value)


def test_a_tool_that_is_missing_from_there_is_named(fake_tools):
    (fake_tools.directory / "condor_rm").unlink()
    with pytest.raises(errors.CondorNotFoundError, match="there is no condor_rm"):
        find_bin_dir()


def test_then_the_configuration_then_this_pythons_environment_then_path(fake_tools, tmp_path, monkeypatch):
    monkeypatch.delenv("CONDOR_BIN_DIR")
    monkeypatch.setenv("PATH", str(fake_tools.directory))
    assert find_bin_dir() == fake_tools.directory
    prefix = tmp_path / "prefix"
    (prefix / "bin").mkdir(parents=True)
    for tool in ("condor_submit", "condor_q", "condor_rm"):
        (prefix / "bin" / tool).symlink_to(fake_tools.directory / tool)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    assert find_bin_dir() == prefix / "bin"
    with dask.config.set({"htcdaskgateway.condor.bin-dir": str(fake_tools.directory)}):
        assert find_bin_dir() == fake_tools.directory


def test_no_htcondor_at_all_is_told_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.CondorNotFoundError, match=r"not on PATH(.|\n)*conda install.*CONDOR_BIN_DIR"):
        find_bin_dir()


def test_a_condas_configuration_is_used_where_nothing_else_is_said(tmp_path, monkeypatch):
    prefix = tmp_path / "conda"
    configuration = prefix / "etc" / "condor" / "condor_config"
    configuration.parent.mkdir(parents=True)
    configuration.write_text("")
    assert "CONDOR_CONFIG" not in tool_environment(prefix / "bin")  # not a conda environment
    (prefix / "conda-meta").mkdir()
    assert tool_environment(prefix / "bin")["CONDOR_CONFIG"] == str(configuration)
    monkeypatch.setenv("CONDOR_CONFIG", "/mine")
    assert tool_environment(prefix / "bin")["CONDOR_CONFIG"] == "/mine"


def test_a_users_own_configuration_is_named_to_the_tools_where_the_machine_has_none(bare, tmp_path, monkeypatch):
    machine = tmp_path / "machine_config"
    monkeypatch.setattr("htcdaskgateway.condor.tools._MACHINE_CONFIGS", (str(machine), "~nosuchuser/condor_config"))
    assert "CONDOR_CONFIG" not in tool_environment(tmp_path / "bin")
    own = bare / ".condor" / "user_config"
    own.parent.mkdir()
    own.write_text("CONDOR_HOST = cm.example.edu")
    assert tool_environment(tmp_path / "bin")["CONDOR_CONFIG"] == str(own)
    machine.write_text("# HTCondor reads the user's file beside this one by itself")
    assert "CONDOR_CONFIG" not in tool_environment(tmp_path / "bin")


def test_no_password_goes_to_a_tool(condor, fake_tools, monkeypatch):
    monkeypatch.setenv("DASK_GATEWAY_PASSWORD", "secret")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "secret")
    fake_tools.script("condor_q", 'echo "[{\\"said\\": \\"$DASK_GATEWAY_PASSWORD$JUPYTERHUB_API_TOKEN\\"}]"')
    assert query(condor) == [{"said": ""}]


# condor_q


def test_jobs_are_asked_for_in_one_call(condor, fake_tools):
    fake_tools.answer("condor_q", json.dumps([{"ClusterId": 1, "ProcId": 0}, {"ClusterId": 1}]))
    assert query(condor) == [{"ClusterId": 1, "ProcId": 0}, {"ClusterId": 1}]
    assert fake_tools.calls == [["condor_q", "-constraint", "true", "-json", "-attributes", "ClusterId,ProcId"]]


@pytest.mark.parametrize("text", ["*** Maintenance on [Monday] ***\n", "[site]\n", "warning: {x}\n\n"])
def test_a_sites_banner_before_the_answer_is_no_harm(condor, fake_tools, text):
    fake_tools.answer("condor_q", text + '[\n{\n  "ClusterId": 1\n}\n]\n' + text)
    assert query(condor) == [{"ClusterId": 1}]


def test_a_wrapper_that_asks_several_schedds_gives_the_jobs_of_all(condor, fake_tools):
    # One that has no such job prints nothing, as HTCondor's own condor_q does.
    for schedd in ("first", "second", "third"):
        fake_tools.answer(
            f"ask_{schedd}", "" if schedd == "second" else f'[\n{{\n  "ClusterId": 1, "At": "{schedd}"\n}}\n]\n'
        )
    fake_tools.script("condor_q", f'for s in first second third; do {fake_tools.directory}/ask_$s "$@"; done')
    assert query(condor) == [{"ClusterId": 1, "At": "first"}, {"ClusterId": 1, "At": "third"}]
    assert len(fake_tools.calls_of("condor_q")) == 1


@pytest.mark.parametrize("last", ['[\n{"ClusterId": 2}\n', "[\n{", '[\n{"ClusterId": 2,\n]\n'], ids=repr)
def test_half_an_answer_of_one_of_several_schedds_counts_no_jobs(condor, fake_tools, last):
    fake_tools.answer("condor_q", '[\n{"ClusterId": 1}\n]\n' + last)
    with pytest.raises(errors.CondorError, match="not a list of jobs"):
        query(condor)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_arrays_are_read_in_whatever_pieces_they_come(size):
    text = 'banner [a]\n[\n{"a": "]["}\n,\n{"a": "\\n[{"}\n]\n\n[\n]\n*** [Monday]\n[\n{"a": 3}\n]\nbye\n'
    ads = Ads(dict)
    for at in range(0, len(text), size):
        ads.take(text[at : at + size])
    assert ads.made == [{"a": "]["}, {"a": "\n[{"}, {"a": 3}]
    assert ads.complete


def test_no_jobs_means_that_htcondor_said_so(condor, fake_tools):
    fake_tools.script(
        "condor_q", 'case "$*" in *-totals*) echo "Total for query: 0 jobs; 0 completed, 0 removed";; esac'
    )
    assert query(condor) == []
    fake_tools.answer("condor_q", "[ ]\n")
    assert query(condor) == []


@pytest.mark.parametrize(
    "answer",
    ["", "\n", "no idea\n", "{}", '[{"ClusterId": 1}', '[{"ClusterId": ', "[1, 2]", TOTALS.format(2), "null"],
    ids=repr,
)
def test_a_broken_answer_never_reads_as_no_jobs(condor, fake_tools, answer):
    fake_tools.answer("condor_q", answer)
    with pytest.raises(errors.CondorError, match="not a list of jobs") as caught:
        query(condor)
    assert "condor_q" in " ".join(caught.value.command)
    assert "wrapper script" in str(caught.value)


def test_totals_count_and_name_the_schedd(condor, fake_tools):
    fake_tools.answer("condor_q", TOTALS.format(3))
    assert asyncio.run(condor.totals("true")) == 3
    assert condor.answered == "schedd@"
    # A site's wrapper may ask several.
    fake_tools.answer("condor_q", TOTALS.format(3) + TOTALS.format(4))
    assert asyncio.run(condor.totals("true")) == 7
    fake_tools.answer("condor_q", "hello")
    assert asyncio.run(condor.totals("true")) is None


def test_only_another_schedd_is_named_to_the_tools(condor, fake_tools):
    fake_tools.answer("condor_q", TOTALS.format(0))
    for name in ("", "schedd@", "schedd", "SCHEDD@"):
        assert asyncio.run(condor.at(name)) is condor
    other = asyncio.run(condor.at("other@there"))
    fake_tools.forget()
    assert asyncio.run(other.query("true", ["ClusterId"])) == []
    calls = fake_tools.calls_of("condor_q")
    assert calls
    assert all(arguments[:2] == ["-name", "other@there"] for arguments in calls)


@pytest.mark.parametrize("note", [None, 3, "", "-pool", "a b", "a\nb", "$(x)", ["schedd@"]])
def test_a_note_that_is_no_schedds_name_is_none(note):
    assert check_schedd(note) == ""
    assert check_schedd("a_1@ap-2.example.org") == "a_1@ap-2.example.org"


def test_broken_json_is_not_asked_away(condor, fake_tools):
    """Half an answer, and then totals of 0: the half answer counts."""
    fake_tools.script(
        "condor_q", """case "$*" in *-totals*) echo 'Total for query: 0 jobs;';; *) echo '[{"a": ';; esac"""
    )
    with pytest.raises(errors.CondorError, match="not a list of jobs"):
        query(condor)


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        ("Error: Can't find address for schedd X", errors.CondorUnreachableError),
        ("-- Failed to fetch ads from: <127.0.0.1:1> : x\nCEDAR:6001:Failed to connect to <127.0.0.1:1>",
         errors.CondorUnreachableError),
        ("ERROR: Can't find address of local schedd", errors.CondorUnreachableError),
        ("AUTHENTICATE:1003:Failed to authenticate with any method", errors.CondorAuthenticationError),
        ("AUTHENTICATE:1004:Failed to authenticate using IDTOKENS\nCEDAR:6001:Failed to connect",
         errors.CondorAuthenticationError),
        ("-- Failed to fetch ads from: <127.0.0.1:1> : x\nSECMAN:2007:Read failure during security negotiation.",
         errors.CondorUnreachableError),
        ("SECMAN:2010:Received \"DENIED\" from server for user", errors.CondorAuthenticationError),
        ("\nNeither the environment variable CONDOR_CONFIG,\n/etc/condor/,\nnor ~condor/ contain a condor_config "
         "source.\n", errors.CondorConfigError),
        ('\nFile specified in CONDOR_CONFIG environment variable:\n"/no" does not exist.\n',
         errors.CondorConfigError),
        ("Error: -constraint ( is not a valid constraint", errors.CondorError),
        ("", errors.CondorError),
    ],
)  # fmt: skip
def test_the_kinds_of_failure_are_told_apart(condor, fake_tools, tmp_path, stderr, kind):
    for tool, call in (
        ("condor_q", lambda: query(condor)),
        ("condor_submit", lambda: submit(condor, tmp_path)),
        ("condor_rm", lambda: remove(condor)),
    ):
        fake_tools.answer(tool, stderr=stderr, code=1)
        with pytest.raises(errors.CondorError) as caught:
            call()
        assert type(caught.value) is kind
        assert caught.value.returncode == 1
        assert caught.value.stderr == stderr.strip()
        assert tool in caught.value.command[0]


def test_a_stranger_is_not_told_that_the_schedd_is_down(condor, fake_tools):
    """A bad token reads like a missing schedd; condor_status says what it is."""
    fake_tools.answer("condor_q", stderr="Error: Can't find address of local schedd", code=1)
    fake_tools.answer("condor_status", stderr="AUTHENTICATE:1004:Failed to authenticate using IDTOKENS", code=1)
    with pytest.raises(errors.CondorAuthenticationError, match="setup_condor"):
        query(condor)


def test_a_tool_that_is_gone_is_told(condor, fake_tools):
    (fake_tools.directory / "condor_q").unlink()
    with pytest.raises(errors.CondorNotFoundError, match="condor_q cannot be started"):
        query(condor)


# condor_rm


@pytest.mark.parametrize(
    ("stdout", "stderr", "code", "expected"),
    [
        ("All jobs matching constraint (true) have been marked for removal\n", "", 0, True),
        ("", NO_MATCH, 1, False),
        ("", "There are no jobs in the queue\n" + NO_MATCH, 1, False),
        ("There are no jobs in the queue\n", "", 0, False),
        ("", "Job 9.9 not found\n", 1, False),
    ],
)
def test_no_such_job_is_success(condor, fake_tools, stdout, stderr, code, expected):
    fake_tools.answer("condor_rm", stdout, stderr, code)
    assert remove(condor) is expected


@pytest.mark.parametrize(
    "trouble", ["AUTHENTICATE:1003:Failed", "SECMAN:2007:Failed", "CEDAR:6001:Failed to connect"]
)
def test_a_stranger_is_not_told_that_there_are_no_jobs(condor, fake_tools, trouble):
    fake_tools.answer("condor_rm", stderr=f"{trouble}\n{NO_MATCH}", code=1)
    with pytest.raises(errors.CondorError):
        remove(condor)


def test_jobs_are_forced_out_where_that_is_asked_for(condor, fake_tools):
    remove(condor, force=True)
    assert fake_tools.calls_of("condor_rm") == [["-forcex", "-constraint", "true"]]


# condor_submit


@pytest.mark.parametrize(
    ("stdout", "expected"),
    [("17.0 - 17.1\n", (17, 2)), ("banner\n17.0 - 17.0\n", (17, 1)), ("17.0 - 17.1\n17.2 - 17.4\n", (17, 5))],
)
def test_the_ids_are_read(condor, fake_tools, tmp_path, stdout, expected):
    fake_tools.answer("condor_submit", stdout)
    assert submit(condor, tmp_path) == expected
    assert fake_tools.calls == [["condor_submit", "-terse", "worker.sub", "-queue", "2"]]


def test_no_ids_may_mean_jobs(condor, fake_tools, tmp_path):
    with pytest.raises(errors.CondorError, match="may or may not be in the queue"):
        submit(condor, tmp_path)


def test_none_is_never_submitted(condor, fake_tools, tmp_path):
    """HTCondor 25 queues one job for ``-queue 0``."""
    with pytest.raises(ValueError, match="count=0"):
        submit(condor, tmp_path, 0)
    assert fake_tools.calls == []


def test_a_warning_is_passed_on(condor, fake_tools, tmp_path, caplog):
    fake_tools.answer(
        "condor_submit", "1.0 - 1.1\n", "WARNING: the line 'reqest_gpus = 1' was unused by condor_submit\n"
    )
    with caplog.at_level(logging.WARNING):
        submit(condor, tmp_path)
    assert "reqest_gpus" in caplog.text


def test_a_schedd_and_a_pool_are_named_in_every_call(fake_tools, tmp_path):
    fake_tools.answer("condor_submit", "1.0 - 1.1\n")
    fake_tools.answer("condor_q", "[]")
    with dask.config.set({"htcdaskgateway.condor.schedd": "s@x", "htcdaskgateway.condor.pool": "cm"}):
        condor = Condor()
    submit(condor, tmp_path, extra=["-disable"], spool=True)
    query(condor)
    remove(condor)
    address = ["-name", "s@x", "-pool", "cm"]
    assert fake_tools.calls == [
        ["condor_submit", *address, "-terse", "-spool", "-disable", "worker.sub", "-queue", "2"],
        ["condor_q", *address, "-constraint", "true", "-json", "-attributes", "ClusterId,ProcId"],
        ["condor_rm", *address, "-constraint", "true"],
    ]


# Time limits


@pytest.mark.parametrize("end", ["wait", "exit 0"], ids=["it hangs", "it leaves one behind that holds its output"])
def test_a_tool_that_hangs_is_killed_with_all_it_started(fake_tools, end):
    mark = f"86{os.getpid()}.25"
    fake_tools.script("condor_q", f"sleep {mark} &\n{end}")
    started = time.monotonic()
    with pytest.raises(errors.CondorTimeoutError, match=r"longer than 1\.5 s(.|\n)*scale\(n\) again is safe"):
        query(Condor(timeout=1.5))
    assert time.monotonic() - started < 30
    wait_until(lambda: not running_processes(mark), 10, "the tool's child is gone")


@pytest.mark.parametrize("when", ["while it starts", "while it runs"])
def test_a_call_that_is_given_up_leaves_no_process(fake_tools, when):
    mark = f"86{os.getpid()}.75"
    fake_tools.script("condor_q", f"sleep {mark}; true")

    async def give_up():
        task = asyncio.ensure_future(Condor().query("true", []))
        if when == "while it starts":
            # The process is there after the first steps; the loop hears of it later.
            for _ in range(3):
                await asyncio.sleep(0)
            wait_until(lambda: running_processes(mark))
        while not running_processes(mark):
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(give_up())
    wait_until(lambda: not running_processes(mark), 10, "the tool's child is gone")


def test_who_looks_when_python_ends_and_starts_no_thread_sees_the_jobs(condor, fake_tools, monkeypatch):
    async def no_thread(*command, **options):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", no_thread)
    fake_tools.answer("condor_q", '[{"ClusterId": 1}]')
    assert query(condor) == [{"ClusterId": 1}]


def test_the_event_loop_goes_on_while_a_tool_runs(fake_tools):
    fake_tools.script("condor_q", "sleep 1; echo '[]'")

    async def count():
        task = asyncio.ensure_future(Condor().query("true", []))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    assert asyncio.run(count()) > 10


def test_a_time_limit_is_configured(fake_tools):
    with dask.config.set({"htcdaskgateway.condor.timeout": "2m"}):
        assert Condor().timeout == 120
    with (
        dask.config.set({"htcdaskgateway.condor.timeout": "soon"}),
        pytest.raises(errors.ConfigError, match=r"htcdaskgateway\.condor\.timeout"),
    ):
        Condor()


def test_a_classad_string_is_quoted():
    assert quote_classad('a"b\\c') == '"a\\"b\\c"'
    with pytest.raises(errors.ConfigError, match="backslash at its end"):
        quote_classad("a\\")


def test_output_in_any_encoding_is_read(condor, fake_tools):
    Path(fake_tools.directory / "bytes").write_bytes(b'[{"a": "caf\xe9"}]')
    fake_tools.script("condor_q", f"cat {fake_tools.directory / 'bytes'}")
    assert query(condor) == [{"a": "caf�"}]
