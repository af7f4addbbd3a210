"""The errors of this package: one family, each of which says what to do next."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

from .plain import plain


class HTCDaskGatewayError(Exception):
    """The base of all errors of this package.

    In a notebook it shows its type and message; ``%tb Plain`` or ``%tb Verbose`` then shows the whole traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows, in the mode that was chosen there if it was."""
        from IPython import get_ipython

        shell = get_ipython()
        tracebacks = getattr(shell, "InteractiveTB", None)
        if tracebacks is not None and tracebacks.mode in ("Plain", "Verbose"):
            whole: list[str] = tracebacks.structured_traceback(type(self), self, self.__traceback__, tb_offset=1)
            return whole
        return [f"{type(self).__name__}: {self}", "", "(%tb Plain shows the whole traceback.)"]


class ConfigError(HTCDaskGatewayError, ValueError):
    """A value that a user or a configuration file gave cannot be used."""


class KeywordError(ConfigError, TypeError):
    """There is no such keyword."""


class TemplateError(HTCDaskGatewayError):
    """A template of the job or its script cannot be read or rendered."""


class StagingError(HTCDaskGatewayError):
    """The staging directory cannot be used."""


class SchedulerError(HTCDaskGatewayError):
    """The cluster's scheduler refused what this package needs of it."""


class ProxyUnreachableError(SchedulerError):
    """The gateway's scheduler proxy cannot be reached from this machine."""


class GatewayAccessError(HTCDaskGatewayError):
    """The gateway server does not let this user in, or not do that."""


class ClusterEndedError(SchedulerError):
    """The cluster has ended, or is being shut down."""


class ContainerError(HTCDaskGatewayError):
    """No worker can run in this container image."""


class PackagesError(HTCDaskGatewayError):
    """No worker could run the packages that were asked for, or they could not be brought to the workers."""


class WaitError(HTCDaskGatewayError):
    """The workers will not come."""


class WaitTimeoutError(WaitError, asyncio.TimeoutError):
    """The workers have not come in time; a `dask.distributed.TimeoutError`."""


class CondorError(HTCDaskGatewayError):
    """A program of HTCondor failed.

    Parameters
    ----------
    message : str
        What could not be done.
    command : sequence of str, optional
        The command line that was run.
    returncode : int, optional
        Its exit code; None if it never ended by itself.
    stderr : str, optional
        What it wrote to its standard error.
    hint : str, optional
        What the user can do about it; the class has one of its own for its kind of failure.
    """

    hint = ""

    def __init__(
        self,
        message: str,
        *,
        command: Sequence[str] = (),
        returncode: int | None = None,
        stderr: str = "",
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.command = tuple(command)
        self.returncode = returncode
        self.stderr = stderr.strip()
        if hint is not None:
            self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        lines = [self.message]
        if self.command:
            code = "" if self.returncode is None else f" (exit code {self.returncode})"
            lines.append(f"  command: {' '.join(self.command)}{code}")
        if self.stderr:
            lines.append("  stderr:  " + plain(self.stderr).replace("\n", "\n           "))
        if self.hint:
            lines.append(f"  next:    {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # An exception with keywords only does not pickle by itself, and errors cross process borders.
        return functools.partial(
            type(self),
            self.message,
            command=self.command,
            returncode=self.returncode,
            stderr=self.stderr,
            hint=self.hint,
        ), ()


class CondorNotFoundError(CondorError):
    """HTCondor's command line tools were not found."""

    hint = (
        "install HTCondor's tools (conda: `conda install -c conda-forge htcondor`), or set CONDOR_BIN_DIR "
        "to the directory that `which condor_q` shows in a terminal where it works"
    )


class CondorConfigError(CondorError):
    """HTCondor's tools find no configuration."""

    hint = "run `setup_condor` in a terminal, or set CONDOR_CONFIG to your pool's condor_config file"


class CondorAuthenticationError(CondorError):
    """The schedd does not know you."""

    hint = "fetch a new token: run `setup_condor` in a terminal (`setup_condor --check` says what is wrong)"


class CondorUnreachableError(CondorError):
    """The schedd does not answer."""

    hint = (
        "is the schedd running and its host reachable? An expired token can look like this too: "
        "`setup_condor --check` says which it is"
    )


class CondorTimeoutError(CondorError):
    """A tool of HTCondor took longer than its time limit."""

    hint = (
        "the schedd may be overloaded or hung, or its port closed to this machine (`htcdaskgateway doctor` tells); "
        "try again later, or raise `htcdaskgateway.condor.timeout`. "
        "Calling scale(n) again is safe: it counts the jobs first"
    )
