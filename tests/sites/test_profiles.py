"""Where a site's profile stands among dask's configuration, and the commands that show it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dask.config
import pytest
import yaml
from click.testing import CliRunner
from support import first_is_quick

from htcdaskgateway import HTCGateway, config
from htcdaskgateway.cli import main
from htcdaskgateway.errors import ConfigError
from htcdaskgateway.setup_condor import settings
from htcdaskgateway.sites import profile
from htcdaskgateway.worker import staging

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("bare")]
SITE = """
gateway:
  address: https://site.example.org
htcdaskgateway:
  worker:
    cpus: 8
    memory: 64GB
    job-extra-directives: {+FromSite: '1'}
"""
SHOW = """
import dask.config, htcdaskgateway
from htcdaskgateway import HTCGateway
def show():
    found = [dask.config.get("htcdaskgateway.worker." + key) for key in ("cpus", "memory")]
    return *found, dask.config.get("gateway.address")
"""


@pytest.fixture
def site(tmp_path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return path


def shown(site, *, text="{}", program="print(show())", before="", **environment):
    """What a fresh Python has as its configuration, with `text` in the machine's YAML file."""
    etc = site.parent / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "machine.yaml").write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DASK_")}
    done = subprocess.run(
        [sys.executable, "-c", before + SHOW + program],
        env={**kept, "DASK_ROOT_CONFIG": str(etc), "DASK_HTCDASKGATEWAY__SITE": str(site), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_profile_stands_above_the_packages_defaults(site):
    assert shown(site) == "(8, '64GB', 'https://site.example.org')"


@pytest.mark.parametrize("cpus", first_is_quick([2, 4]))
def test_a_yaml_file_wins_over_a_profile_also_where_it_says_what_is_the_default(site, cpus):
    assert shown(site, text=f"htcdaskgateway: {{worker: {{cpus: {cpus}}}}}") == (
        f"({cpus}, '64GB', 'https://site.example.org')"
    )


def test_the_environment_wins_over_a_profile(site):
    found = shown(site, DASK_GATEWAY__ADDRESS="https://environment", DASK_HTCDASKGATEWAY__WORKER__CPUS="4")
    assert found == "(4, '64GB', 'https://environment')"


@pytest.mark.parametrize("when", first_is_quick(["program", "before"]))
def test_what_a_program_sets_wins_over_a_profile(site, when):
    text = (
        'import dask.config; dask.config.set({"htcdaskgateway.worker.cpus": 4, "gateway.address": "https://set"});'
    )
    program = "HTCGateway(); print(show())"
    found = shown(site, **{"program": program, **{when: text + (program if when == "program" else "\n")}})
    assert found == "(4, '64GB', 'https://set')"


def test_a_dotenv_file_wins_over_a_profile(site, tmp_path):
    Path(".env").write_text("DASK_HTCDASKGATEWAY__WORKER__CPUS=4\nDASK_GATEWAY__ADDRESS=https://dotenv\n")
    assert shown(site, program="HTCGateway(); print(show())") == "(4, '64GB', 'https://dotenv')"


def test_the_users_submit_commands_are_beside_the_sites(site):
    program = 'print(dask.config.get("htcdaskgateway.worker.job-extra-directives"))'
    text = "htcdaskgateway: {worker: {job-extra-directives: {accounting_group: mine}}}"
    assert yaml.safe_load(shown(site, text=text, program=program)) == {"+FromSite": "1", "accounting_group": "mine"}


def test_a_profile_lasts_when_the_configuration_is_read_again(site):
    program = "dask.config.refresh(); config = show(); HTCGateway(); print(show() == config, show())"
    assert shown(site, program=program) == "True (8, '64GB', 'https://site.example.org')"


def test_another_site_leaves_nothing_of_the_former_one(site):
    defaults = dask.config.merge(*profile._defaults())["htcdaskgateway"]
    for name in ("fermilab-eaf", str(site), "ncsa", "cern-lxplus", None):
        with dask.config.set({profile.KEY: name}):
            profile.apply()
            found = profile.in_force()
            assert found.site == name
            expected = dask.config.merge({"htcdaskgateway": defaults}, found)["htcdaskgateway"]
            assert dask.config.config["htcdaskgateway"] == {**expected, "site": name}
            assert dask.config.get("gateway.address", None) == found.get("gateway", {}).get("address")
    profile.apply()


@pytest.mark.parametrize("name", first_is_quick(["null", "None", "fermilab-eaf", "cern-lxplus"]))
def test_nothing_of_ncsas_is_left_with_another_site(name, site):
    program = (
        "from htcdaskgateway.setup_condor import settings\n"
        "from htcdaskgateway.errors import ConfigError\n"
        "from htcdaskgateway.worker import staging\n"
        "assert 'illinois' not in str(dask.config.config) and '/u/' not in str(staging.staging_root())\n"
        "try: settings.load({})\n"
        "except ConfigError as error: print(error)"
    )
    found = shown(site, program=program, DASK_HTCDASKGATEWAY__SITE=name)
    assert found.startswith("login-host: not given; set htcdaskgateway.setup.login-host")
    assert "htcdaskgateway.site" in found


def test_ncsa_is_the_site_of_who_has_chosen_none(site):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DASK_")}
    program = "from htcdaskgateway.setup_condor import settings; print(settings.load({}).login_host)"
    done = subprocess.run([sys.executable, "-c", program], env=kept, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "htc-login.campuscluster.illinois.edu", done.stderr


def test_a_site_that_is_not_there_is_named_with_those_that_are():
    for wrong, said in (
        ("fermilab", "'fermilab' is none of cern-lxplus, coffea-casa, fermilab-eaf, fermilab-lpc, ncsa"),
        ("/nowhere/site.yaml", "'/nowhere/site.yaml' cannot be read: No such file"),
    ):
        with dask.config.set({profile.KEY: wrong}):
            with pytest.raises(ConfigError, match=said):
                HTCGateway("http://gateway.example.org")
            with pytest.raises(ConfigError, match=said):
                config.load()


@pytest.mark.parametrize("text", ["[", "- a", "htcdaskgateway: 5", "htcdaskgateway: {site: other}"])
def test_a_file_that_is_no_profile_is_refused(tmp_path, text):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"wrong\.yaml"):
        profile.read(str(tmp_path / "wrong.yaml"))


def test_no_dotenv_file_names_the_file_of_a_site(caplog):
    Path(".env").write_text("DASK_HTCDASKGATEWAY__SITE=/evil.yaml\n")
    config.load_dotenv()
    assert "evil" not in str(dask.config.config)
    assert "names a program" in caplog.text


def test_the_sites_are_listed_and_one_is_printed_to_start_from():
    with dask.config.set({profile.KEY: "fermilab-eaf"}):
        listed = CliRunner().invoke(main, ["sites"])
    assert listed.exit_code == 0
    assert [line[2:].split()[0] for line in listed.output.splitlines()] == profile.names()
    assert [line for line in listed.output.splitlines() if line.startswith("* fermilab-eaf ")]
    one = CliRunner().invoke(main, ["site", "fermilab-eaf"])
    assert yaml.safe_load(one.output) == profile.read("fermilab-eaf")
    unknown = CliRunner().invoke(main, ["site", "fermilab"])
    assert unknown.exit_code == 1
    assert "is none of cern-lxplus" in unknown.output


@pytest.mark.parametrize("name", profile.names())
def test_each_profile_names_its_source_and_date_and_only_keys_that_there_are(name):
    text = profile.text(name)
    head = text.partition("\nhtcdaskgateway:")[0]
    assert "# Source: " in head
    assert "Looked at: " in head
    known = yaml.safe_load((Path(config.__file__).parent / "htcdaskgateway.yaml").read_text())["htcdaskgateway"]
    own = profile.read(name)["htcdaskgateway"]
    assert own.keys() <= known.keys()
    for part in ("worker", "setup", "condor"):
        assert own.get(part, {}).keys() <= known[part].keys()


def test_the_staging_directory_of_ncsa_is_in_the_home_where_there_is_no_directory_of_the_user(bare):
    with dask.config.set(
        {"htcdaskgateway.staging-directory": profile.read("ncsa")["htcdaskgateway"]["staging-directory"]}
    ):
        assert staging.staging_root() == bare / "htcdask"
    assert settings.load({"login-host": "login"}).login_host == "login"
