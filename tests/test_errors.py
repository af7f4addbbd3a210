"""One family of errors, which say what to do and cross the border of a process."""

from __future__ import annotations

import pickle

import pytest

from htcdaskgateway import errors

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.CondorError) and kind is not errors.CondorError
]


def test_all_are_of_one_family():
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert issubclass(kind, errors.HTCDaskGatewayError)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_says_what_to_do_next(kind):
    assert "  next:    " in str(kind("it failed"))


def test_a_failed_tool_is_told_in_full():
    error = errors.CondorError(
        "it failed", command=["condor_q", "-x"], returncode=1, stderr="one\ntwo\n", hint="do that"
    )
    assert str(error).splitlines() == [
        "it failed",
        "  command: condor_q -x (exit code 1)",
        "  stderr:  one",
        "           two",
        "  next:    do that",
    ]


@pytest.mark.parametrize("kind", [errors.CondorError, *KINDS], ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_in_another_process(kind):
    error = kind("it failed", command=["condor_q"], returncode=1, stderr="words")
    error.hint = "another way out"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert (copy.command, copy.returncode, copy.stderr) == (("condor_q",), 1, "words")


def test_a_wrong_value_is_a_value_error_too():
    assert issubclass(errors.ConfigError, ValueError)
