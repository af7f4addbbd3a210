"""Templates: found by name, and no value can add anything to what is rendered."""

from __future__ import annotations

import shlex
import subprocess

import dask.config
import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcdaskgateway.condor import templating
from htcdaskgateway.condor.quoting import quote_list_item, quote_log, quote_shell, quote_submit
from htcdaskgateway.errors import ConfigError, TemplateError

pytestmark = pytest.mark.usefixtures("bare")


@pytest.fixture
def site(tmp_path):
    """A site's directory of templates, in force."""
    directory = tmp_path / "site"
    directory.mkdir()
    with dask.config.set({"htcdaskgateway.template-directory": str(directory)}):
        yield directory


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("a\nqueue 5", "a line break"),
        ("a\rb", "a line break"),
        ("a\0b", "a line break"),
        ("$$(Name)", "when it matches"),
        ("$$([1])", "when it matches"),
        ("$(DOLLAR)", "DOLLAR"),
        ("$(dollar)x", "DOLLAR"),
        ("a\\", "backslash"),
        (" a", "space"),
        ("a ", "space"),
    ],
)
def test_what_a_submit_description_cannot_hold_is_refused(value, word):
    with pytest.raises(ConfigError, match=word) as caught:
        quote_submit(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["it's", '"x"', "a b", "`id`", "$(id)", "$x", "${x}", "a\\b", "#x", "ä", "%x"])
def test_everything_else_is_one_value(value):
    assert quote_submit(value).replace("$(DOLLAR)", "$") == value


def test_a_list_of_a_submit_description_takes_no_comma():
    with pytest.raises(ConfigError, match="comma"):
        quote_list_item("/a,/b")


@pytest.mark.parametrize("path", ["/a\\/b", "/a/\\b", "/a\\\\b"])
def test_a_log_takes_no_backslash_beside_a_separator(path):
    with pytest.raises(ConfigError, match="backslash beside"):
        quote_log(path)
    assert quote_log("/a\\b/c") == "/a\\b/c"


@given(st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"])))
def test_a_shell_reads_back_what_was_quoted(text):
    (word,) = shlex.split(quote_shell(text))
    assert word == text


def test_a_real_shell_reads_back_what_was_quoted(site):
    values = ["it's", '"', "`id`", "$(id)", "$HOME", "\\", "a  b", "*", "", "!", "ä", "-n", "~"]
    (site / "x.j2").write_text("printf '%s\\0'{% for value in values %} {{ value | sh }}{% endfor %}\n")
    script = templating.render("x.j2", values=values)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == values


def test_a_newline_cannot_reach_the_script(site):
    (site / "x.j2").write_text("echo {{ value | sh }}\n")
    for value in ("a\nb", "a\0b", "a\rb"):
        with pytest.raises(ConfigError, match="line break"):
            templating.render("x.j2", value=value)


def test_a_classad_string_is_escaped(site):
    (site / "x.j2").write_text("My.X = {{ value | classad | submit }}")
    assert templating.render("x.j2", value='a"b\\c$d') == 'My.X = "a\\"b\\c$(DOLLAR)d"'


def test_the_sites_template_goes_before_the_packages_own(site):
    (site / "worker.sh.j2").write_text("of the site: {{ cluster }}")
    assert templating.render("worker.sh.j2", cluster="x") == "of the site: x"
    (site / "worker.sh.j2").unlink()
    with pytest.raises(TemplateError, match=r"worker\.sh\.j2.*undefined"):
        templating.render("worker.sh.j2", cluster="x")  # the package's own, which wants more values


def test_a_template_may_include_another(site):
    (site / "own.j2").write_text("{% include 'part.j2' %}!")
    (site / "part.j2").write_text("part")
    assert templating.render("own.j2") == "part!"


def test_a_syntax_error_is_told_with_its_file_and_line(site):
    (site / "worker.sh.j2").write_text("fine\n{% if %}\n")
    with pytest.raises(TemplateError) as caught:
        templating.render("worker.sh.j2")
    assert f"{site / 'worker.sh.j2'}, line 2" in str(caught.value)


def test_a_value_that_does_not_exist_is_told(site):
    (site / "x.j2").write_text("{{ nothing }}")
    with pytest.raises(TemplateError, match=r"x\.j2.*'nothing' is undefined"):
        templating.render("x.j2")


def test_a_template_that_fails_while_it_renders_is_told(site):
    (site / "x.j2").write_text("{{ 1 / 0 }}")
    with pytest.raises(TemplateError, match=r"x\.j2.*division by zero"):
        templating.render("x.j2")


def test_a_missing_template_is_told():
    with pytest.raises(TemplateError, match=r"'nowhere\.j2'"):
        templating.render("nowhere.j2")


def test_a_template_in_a_foreign_encoding_is_told(site):
    (site / "x.j2").write_bytes(b"caf\xe9")
    with pytest.raises(TemplateError, match=r"x\.j2"):
        templating.render("x.j2")


def test_a_directory_that_is_none_is_told(tmp_path):
    with (
        dask.config.set({"htcdaskgateway.template-directory": str(tmp_path / "no")}),
        pytest.raises(TemplateError, match="template-directory"),
    ):
        templating.render("worker.sh.j2")
