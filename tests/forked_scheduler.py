"""Dask schedulers that share one import of Dask, half a second of CPU each, for the quick run of the tests.

``--serve SOCKET`` imports Dask and waits until its standard input ends. ``SOCKET OPTIONS...`` has a scheduler
forked there, with this process's environment, directory and output, and stands for it before the gateway server: it
passes signals on and ends as the scheduler does; who kills either kills both.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(path: str) -> None:
    """Fork a scheduler for everyone who asks."""
    import select

    import dask_gateway.scheduler_preload  # noqa: F401
    import distributed.cli.dask_scheduler

    with contextlib.suppress(ImportError):
        # What a scheduler imports when it starts: the greater part of what it costs.
        import distributed.dashboard.scheduler
        import distributed.http.scheduler.info
        import distributed.http.scheduler.json
        import distributed.http.scheduler.prometheus  # noqa: F401
    gc.freeze()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(100)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [], 1)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if sys.stdin in ready:
                return
            if listener not in ready:
                continue
            asking, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                run(asking)
            asking.close()


def run(asking: socket.socket) -> None:
    """Be the scheduler; the end of the process."""
    import atexit
    import threading

    import dask.config
    from distributed.cli.dask_scheduler import main

    text, files, _, _ = socket.recv_fds(asking, 2**20, 2)
    while not text.endswith(b"\n"):
        more = asking.recv(2**20)
        if not more:  # who asked has been killed meanwhile
            os._exit(1)
        text += more
    asked = json.loads(text)
    os.setsid()
    os.chdir(asked["directory"])
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(asked["environment"])
    # What the package has from its configuration files stays; the environment is another one.
    dask.config.update(dask.config.config, dask.config.collect_env())
    asking.sendall(f"{os.getpid()}\n".encode())

    def die_with_the_other() -> None:
        asking.recv(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=die_with_the_other, daemon=True).start()
    code = 1
    try:
        main(asked["options"], prog_name="dask scheduler")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        asking.sendall(f"{code}\n".encode())
        os._exit(code)


def ask(path: str, options: list[str]) -> int:
    """Stand for a scheduler; return its exit code."""
    asked = {"options": options, "directory": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        socket.send_fds(server, [json.dumps(asked).encode() + b"\n"], [1, 2])
        answers = server.makefile()
        pid = int(answers.readline())
        for number in SIGNALS:
            signal.signal(number, lambda got, _: os.kill(pid, got))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return int(answers.readline() or 1)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
