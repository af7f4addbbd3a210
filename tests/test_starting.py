"""Where the package starts processes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import htcdaskgateway

PACKAGE = Path(htcdaskgateway.__file__).parent

PLACES = {
    "condor/command.py": "HTCondor's tools",
    "local/guard.py": "a server of the local system, under its guard",
    "local/processes.py": "that guard, and programs that run to their end",
    "packages/environment.py": "ldd, and the Python of an environment that is to be sent",
    "packages/squashfs.py": "mksquashfs",
    "remote/worker_start.py": "the worker, forked from the job's process",
    "remote/relay/scheduler.py": "the relay's child, at the scheduler",
    "remote/relay/worker.py": "the child that answers for a worker's link",
    "setup_condor/login.py": "ssh, at a terminal of its own",
    "setup_condor/run.py": "ssh -G, to ask which user it would take",
}
STARTS = re.compile(
    r"asyncio\.create_subprocess_\w+|subprocess\.(run|Popen|call|check_\w+|get\w*output)|pexpect\.(spawn|run)\w*"
    r"|os\.(exec\w+|spawn\w+|posix_spawn\w*|fork\w*|system|popen)|pty\.\w+|multiprocessing\.\w+"
    r"|(\w+\.)*ProcessPoolExecutor|(\w+\.)*subprocess_(exec|shell)"
)


def starting(path: Path) -> list[str]:
    """Return the calls of a module that start a process, and the imports that would hide one."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and STARTS.fullmatch(ast.unparse(node.func)):
            found.append(ast.unparse(node.func))
            assert not any(keyword.arg == "shell" for keyword in node.keywords), path
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.asname and STARTS.fullmatch(f"{alias.name}.run")]
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if STARTS.fullmatch(name)]
    return found


def test_processes_start_in_a_few_modules_only():
    modules = {str(path.relative_to(PACKAGE)): starting(path) for path in PACKAGE.rglob("*.py")}
    assert {name: calls for name, calls in modules.items() if calls and name not in PLACES} == {}
    assert {name for name, calls in modules.items() if calls} == PLACES.keys()


def test_a_call_that_starts_a_process_is_seen(tmp_path):
    module = tmp_path / "module.py"
    for text in (
        "import asyncio\nasync def f(): await asyncio.create_subprocess_shell('ls')",
        "import subprocess as s",
        "from subprocess import run",
        "import os\nos.execvp('ls', [])",
        "import pexpect\npexpect.spawn('ls')",
    ):
        module.write_text(text)
        assert starting(module), text
