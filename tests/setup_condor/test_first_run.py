"""From nothing to a working condor_q, as a person at a terminal sees it."""

from __future__ import annotations

import stat

import pytest
from setup_condor.login_node import PASSWORD
from support import first_is_quick


@pytest.mark.parametrize("method", first_is_quick(["keyboard-interactive", "password", "partial"]))
def test_one_run_takes_a_bare_account_to_a_working_condor_q(account, login_node, person, method):
    node = login_node(method=method, banner="Authorized use only.\nYour password: keep it.\n")
    assert account.condor("condor_q").returncode != 0

    one = person(node.port, user=None)
    one.sees("user name at 127.0.0.1.*: ")
    one.types("alice")
    one.sees(r"does not know \[127.0.0.1\]", "SHA256:", "fingerprint that your site publishes")
    assert node.fingerprint in one.seen
    one.types("yes")
    one.sees("(?i)password.*: ")
    one.types(PASSWORD, hidden=True)
    code, seen = one.leaves()

    assert code == 0, seen
    assert "condor_q works" in seen
    assert "@pool.test" in seen
    assert "issued by pool.test" in seen
    assert node.passwords == [PASSWORD]
    assert node.factors == ([] if method == "password" else ["2"]), "push is the second option there"
    assert len(node.commands) == 1
    assert "condor_token_fetch -name schedd@;" in node.commands[0]
    assert PASSWORD not in seen
    assert "eyJ" not in seen
    assert stat.S_IMODE(account.token.stat().st_mode) == 0o600
    assert stat.S_IMODE(account.token.parent.stat().st_mode) == 0o700
    queue = account.condor("condor_q")
    assert queue.returncode == 0, queue.stderr
    assert "Total for query: " in queue.stdout  # other tests' jobs may be there
    assert "IDTOKENS" in account.condor("condor_ping", "-type", "SCHEDD", "WRITE").stdout
