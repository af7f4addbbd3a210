"""A job wrapper of a pool (USER_JOB_WRAPPER): it maps ports of the node to the workers', as Docker does there.

It writes what HTCondor writes then into the job's ad, and notes each connection that came by a mapped port. The
containers of two jobs have a port 8786 each; the workers here share one network, so that each job gets a port of
its own in its place.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

SCRATCH = Path(os.environ["_CONDOR_SCRATCH_DIR"])
NAME = re.compile(r'^ContainerServiceNames = "(\w+)"$', re.M)
PORT = re.compile(r"(--listen-address tls://0.0.0.0:)(\d+)")


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # the one end is gone; so is the other then
    finally:
        writer.close()


async def forward(name: str, target: int, notes: Path) -> None:
    """Lead a free port of the node to the worker's, tell it in the job's ad, and end with the job."""

    async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        with notes.open("a") as file:
            file.write(f"{port}\n")
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(come, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.sleep(1)  # the container runs before HTCondor knows
    with (SCRATCH / ".job.ad").open("a") as file:
        file.write(f"{name}_HostPort = {port}\n")
    while os.getppid() == PARENT:
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    ports, notes, *command = sys.argv[1:]
    ad = (SCRATCH / ".job.ad").read_text()
    if (named := NAME.search(ad)) and (proc := re.search(r"^ProcId = (\d+)$", ad, re.M)):
        own = int(ports.split(",")[int(proc[1])])
        script = SCRATCH / Path(command[0]).name
        script.write_text(PORT.sub(rf"\g<1>{own}", script.read_text()))
        PARENT = os.getpid()
        if os.fork() == 0:
            asyncio.run(forward(named[1], own, Path(notes)))
            os._exit(0)
    os.execv(command[0], command)
