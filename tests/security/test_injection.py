"""Whatever a value holds, it stays one value: HTCondor's own tools and a real shell read it back, or it is refused.

Each example is a handful of texts, so that one call of a tool reads back many.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import htcdaskgateway
from htcdaskgateway import WorkerSpec
from htcdaskgateway.condor import Condor
from htcdaskgateway.condor.quoting import quote_classad, quote_submit
from htcdaskgateway.errors import ConfigError
from htcdaskgateway.setup_condor import condor_config
from htcdaskgateway.setup_condor import settings as setup_settings
from htcdaskgateway.worker import checks, staging

ADDRESS = "gateway://127.0.0.1:8786/c1"
# The same texts in each run, fewer in one that is to be quick; HYPOTHESIS_EXPLORE=400 looks at that many others.
EXPLORE = os.environ.get("HYPOTHESIS_EXPLORE")
EXAMPLES = settings(
    max_examples=int(EXPLORE or os.environ.get("HYPOTHESIS_EXAMPLES", "20")),
    derandomize=EXPLORE is None,
    phases=[Phase.explicit, Phase.generate],  # to shrink an example takes hundreds of processes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# What means something to a submit description, a configuration, a ClassAd or a shell, among arbitrary text.
PIECES = [
    "$(", "$$(", "$$([", ")", "$(DOLLAR)", "$ENV(HOME)", "$HOME", "${x}", "`id`", "$(id)", "\\", "\\\\", '"', "'",
    '""', "\n", "\r", "\0", "\nqueue 5", "\\\nqueue 5", "\nMy.Evil = 1", ",", ";", "&", "|", ">", "<", "#", "=",
    " = ", "*", "?", "~", "!", "%", "@", ":", "/", "../", " ", "  ", "\t", "\x7f", "\x85", "\u2028", "\ud800", "é",
    "-", "--", "if", "include : /etc/passwd |", "@=end", "TRUE", "||", "&&", "=?=", "(", "[", "]", "{", "}",
    "queue", "+", "My.", "\\n", "\\x41",
]  # fmt: skip
text = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=8).map("".join)
texts = st.lists(text, min_size=1, max_size=16)
# Chance alone rarely makes a whole macro of a text that is not refused for something else in it.
KNOWN = [f"{before}{piece}{after}" for piece in [*PIECES, "$$(Cpus)"] for before, after in (("", ""), ("a", "b"))]


def known(function):
    """Try each of the known texts, too, in three places at once."""
    for value in KNOWN[1::2]:
        function = example(value, value, value)(function)
    return function


def allowed(make, *values):
    """Return those of `values` from which something can be made; the others were refused with a clear error."""
    fine, refusals = [], []
    for value in values:
        try:
            make(value)
        except ConfigError as error:
            refusals.append(str(error))
        else:
            fine.append(value)
    assert all(refusals)
    return fine


def spec(**keywords):
    plain = {"cpus": 1, "memory": "1GB", "container_runtime": "none", "container_image": None}
    return WorkerSpec.from_keywords(**{**plain, **keywords})


@pytest.fixture
def read_back(tmp_path, pool):
    """Let condor_submit make an ad of a submit description, and condor_q print it as JSON."""

    def read(description: str):
        (tmp_path / "some.sub").write_text(description, encoding="utf-8")
        (tmp_path / "worker.sh").write_text("#!/bin/sh\n")
        # Anything but these arguments would be a queue line of the description's own.
        pool.run("condor_submit", "-dry-run", "some.ad", "some.sub", "-queue", 1, cwd=tmp_path)
        ads = pool.ads("-jobads", str(tmp_path / "some.ad"))
        assert len(ads) == 1
        return ads[0]

    return read


def quoted(value):
    """Quote a value as the package does on its way from a keyword into a string of a submit description."""
    return quote_submit(quote_classad(checks.text(value, "a value")))


@given(texts)
@example(KNOWN)
@EXAMPLES
def test_text_in_a_submit_description_is_read_back_by_condor_submit(read_back, values):
    fine = allowed(quoted, *values)
    lines = [f"My.Probe{number} = {quoted(value)}" for number, value in enumerate(fine)]
    ad = read_back("\n".join(["executable = /bin/true", "universe = vanilla", *lines, ""]))
    assert [ad[f"Probe{number}"] for number in range(len(fine))] == fine
    assert "Evil" not in ad


@given(text, text, text)
@example("a", "ends in \\", "a")
@known
@EXAMPLES
@pytest.mark.long
def test_a_workers_values_reach_the_job_as_they_are_or_are_refused(read_back, stage, image, directory, group):
    keywords = {
        "container_runtime": "htcondor",
        "container_image": f"/images/{image}.sif",
        "log_directory": f"/tmp/{directory}",
    }
    with contextlib.suppress(ConfigError):
        keywords["job_extra_directives"] = {"My.Group": quote_classad(group)}
    fine = {}
    for name, value in keywords.items():
        try:
            candidate = spec(**{**fine, name: value, "container_runtime": "htcondor"})
            staging.Staging("c1", candidate).rendered(ADDRESS)
        except ConfigError:
            continue
        fine[name] = value
    rendered = staging.Staging("c1", spec(**{"container_runtime": "htcondor", **fine})).rendered(ADDRESS)
    description = rendered["worker.sub"]
    # The values are the only lines that differ from those of a worker without them.
    ad = read_back(re.sub(r"(?m)^transfer_input_files = .*$", "", description))
    assert ad["HTCDaskGatewayCluster"] == "c1"
    assert ad["JobUniverse"] == 5
    assert "Evil" not in ad
    assert "dask.pem" in ad["EncryptInputFiles"]
    if "container_image" in fine:
        # HTCondor sends the file, so that the job knows it by the last part of its path.
        assert ad["ContainerImage"] in (fine["container_image"], Path(fine["container_image"]).name)
    if "log_directory" in fine:
        assert Path(ad["UserLog"]).parts[-2:] == ("c1", "condor.log")


@given(texts, texts)
@example(KNOWN, KNOWN)
@EXAMPLES
def test_text_in_the_workers_script_is_read_back_by_a_shell(tmp_path, stage, values, arguments):
    show = tmp_path / "show"
    if not show.exists():
        show.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            "print(json.dumps([[os.fsdecode(a) for a in map(os.fsencode, sys.argv[1:])], dict(os.environ)]))\n"
        )
        show.chmod(stat.S_IRWXU)
    values = allowed(lambda value: spec(environment={"V": value}), *values)
    # Words that dask worker does not know are a preload's.
    preload = ["--preload", "mine.py"]
    arguments = allowed(lambda value: spec(worker_extra_args=[*preload, value]), *arguments)
    made = staging.Staging(
        "c1",
        spec(
            environment={f"V{number}": value for number, value in enumerate(values)},
            worker_extra_args=[*preload, *arguments],
            python=str(show),
        ),
    )
    script = made.rendered(ADDRESS)["worker.sh"]
    (tmp_path / ".job.ad").write_text("ClusterId = 1\nProcId = 0\nNumShadowStarts = 1\n")
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        env={"LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    words, environment = json.loads(done.stdout.splitlines()[-1])
    assert [environment[f"V{number}"] for number in range(len(values))] == values
    assert words[len(words) - len(arguments) :] == arguments


@given(texts)
@example(KNOWN)
@EXAMPLES
def test_text_in_a_constraint_is_compared_as_it_is(read_back, tmp_path, pool, values):
    fine = allowed(quoted, *values)
    lines = [f"My.Probe{number} = {quoted(value)}" for number, value in enumerate(fine)]
    read_back("\n".join(["executable = /bin/true", *lines, ""]))  # and it leaves the ad
    equal = [f"Probe{number} =?= {quote_classad(value)}" for number, value in enumerate(fine)]
    other = [f"Probe{number} =?= {quote_classad(value + 'x')}" for number, value in enumerate(fine)]
    for constraint, count in ((" && ".join(["true", *equal]), 1), (" || ".join(["false", *other]), 0)):
        assert len(pool.ads("-jobads", str(tmp_path / "some.ad"), "-constraint", constraint)) == count


@given(
    st.dictionaries(st.sampled_from(["schedd", "collector", "trust-domain", "uid-domain"]), text, max_size=4), texts
)
@example({"schedd": "a$(HOME)b", "trust-domain": "a$(HOME)b", "uid-domain": "a$ENV(HOME)b"}, KNOWN)
@EXAMPLES
def test_text_in_a_condor_configuration_is_read_back_by_condor_config_val(tmp_path, pool, names, values):
    def render(values):
        return condor_config.render(setup_settings.load(values))

    fine = {}
    for name, value in names.items():
        try:
            render({**fine, name: value})
        except ConfigError:
            continue
        fine[name] = value
    block = render(fine)
    own = {}
    for number, value in enumerate(values):
        with contextlib.suppress(ConfigError):
            own[f"PROBE_{number}"] = quote_submit(checks.text(value, "a value"))
    configuration = tmp_path / "condor_config"
    probes = "".join(f"{name} = {value}\n" for name, value in own.items())
    configuration.write_text(
        f"RELEASE_DIR = /usr\nLOCAL_DIR = /tmp\n{block}{probes}LAST = here\n", encoding="utf-8"
    )
    done = subprocess.run(
        [str(pool.bin / "condor_config_val"), "-dump", "-expand"],
        capture_output=True,
        text=True,
        timeout=30,
        env=dict(os.environ, CONDOR_CONFIG=str(configuration)),
    )
    assert done.returncode == 0, done.stderr
    dumped = dict(line.split(" = ", 1) for line in done.stdout.splitlines() if " = " in line)
    assert dumped["LAST"] == "here"
    assert "Evil" not in dumped
    for name, variable in (
        ("schedd", "SCHEDD_HOST"),
        ("trust-domain", "TRUST_DOMAIN"),
        ("uid-domain", "UID_DOMAIN"),
    ):
        if fine.get(name):
            assert dumped[variable] == fine[name]
    for name in own:
        assert dumped[name] == values[int(name.removeprefix("PROBE_"))]


@given(text)
@settings(max_examples=300)
def test_name_of_a_cluster_stays_in_its_directory_and_means_nothing_to_anyone(name):
    try:
        staging.check_cluster_name(name)
    except ConfigError:
        return
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert (staging.staging_root() / name).resolve().parent == staging.staging_root().resolve()
    assert quote_submit(name) == name
    assert quote_classad(name) == f'"{name}"'


@pytest.mark.parametrize(
    "name", ["..", "../evil", "a/b", "/etc", ".", "", "a\n", "a b", "$(x)", 'a"', "-rf", "é", "a" * 200]
)
def test_name_of_a_cluster_that_could_mean_more_is_refused_everywhere(fake_tools, gateway, tmp_path, name):
    for call in (gateway.connect, gateway.stop_cluster, staging.remove_credentials, staging.sweep):
        with pytest.raises(ConfigError, match="cannot be the name of"):
            call(name)
    with pytest.raises(ConfigError, match="cannot be the name of"):
        staging.Staging(name, spec())
    assert not fake_tools.calls


@given(st.lists(text.filter(lambda value: "\0" not in value and "\ud800" not in value), max_size=5))
@settings(max_examples=40)
def test_arguments_of_a_tool_reach_it_as_they_are(tmp_path_factory, arguments):
    directory = tmp_path_factory.mktemp("tools")
    tool = directory / "condor_q"
    tool.write_text("#!/bin/sh\n[ $# -eq 0 ] || printf '%s\\0' \"$@\"\n")
    tool.chmod(stat.S_IRWXU)
    done = asyncio.run(Condor(directory, timeout=30).run("condor_q", *arguments))
    # Bytes, as the tool got them: line ends are part of the text.
    assert done.stdout.split("\0")[:-1] == arguments


def test_no_module_uses_a_shell():
    package = Path(htcdaskgateway.__file__).parent
    for path in package.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "shell=True" not in source
        assert not re.search(r"os\.(system|popen)|create_subprocess_shell", source)
