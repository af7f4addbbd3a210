"""An SSH server that asks what login nodes ask, runs real commands, and fails on demand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncssh

T = TypeVar("T")

PASSWORD = "correct horse; battery $taple"
PASSCODE = "8675309"
DUO_MENU = (
    "Duo two-factor login for {user}\n\nEnter a passcode or select one of the following options:\n\n"
    " 1. Phone call to XXX-XXX-1234\n 2. Duo Push to XXX-XXX-1234\n"
    " 3. SMS passcodes to XXX-XXX-1234 (next code starts with: 8)\n\nPasscode or option (1-3): "
)


@dataclass
class LoginNode:
    """The server, and what it was asked.

    method: keyboard-interactive, password, partial (password, then Duo), none, or expired (a new one is demanded).
    duo: push, auto, denied, again (denied, with the menu once more), silent, timeout, or None.
    cut: where the connection is cut: password, duo or command.
    """

    environ: dict[str, str]
    method: str = "keyboard-interactive"
    duo: str | None = "push"
    banner: str = ""
    motd: str = ""
    farewell: str = ""
    command: str | None = None
    cut: str | None = None
    echoes_password: bool = False
    extra_question: str | None = None
    hidden_question: str | None = None
    answers: list[str] = field(default_factory=list)
    passwords: list[str] = field(default_factory=list)
    factors: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    asked_phone: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    key: asyncssh.SSHKey = field(default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519"))

    @property
    def fingerprint(self) -> str:
        return str(self.key.get_fingerprint())

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._acceptor = self._call(self._listen())
        self.port = self._acceptor.get_port()

    async def _listen(self) -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            lambda: _Session(self),
            "127.0.0.1",
            0,
            server_host_keys=[self.key],
            process_factory=self._process,
            encoding=None,
        )

    def stop(self) -> None:
        async def close() -> None:
            self._acceptor.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 10)
            await self._loop.shutdown_default_executor()

        self._call(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _process(self, process: asyncssh.SSHServerProcess) -> None:
        command = process.command or ""
        self.commands.append(command)
        whole, newline, begun = self.motd.rpartition("\n")
        process.stdout.write((whole + newline).encode())
        if self.echoes_password:
            process.stderr.write(f"debug: your password is {self.passwords[-1]}\n".encode())
        if self.cut == "command":
            process.channel.get_connection().abort()
            return
        if self.extra_question is not None:
            process.stdout.write(self.extra_question.encode())
            self.answers.append((await process.stdin.readline()).decode().rstrip("\n"))
        running = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            command if self.command is None else self.command,
            env=self.environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(running.communicate(), 20)
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
        # In one piece with the line it stands in: a silence there is a question.
        process.stdout.write(begun.encode() + out + self.farewell.encode())
        process.stderr.write(err)
        process.exit(running.returncode or 0)


class _Session(asyncssh.SSHServer):
    def __init__(self, node: LoginNode) -> None:
        self.node = node
        self.password_good = False
        self.denials = 0

    def connection_made(self, connection: asyncssh.SSHServerConnection) -> None:
        self.connection = connection

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True  # a host on the way, as ProxyJump uses it

    def begin_auth(self, username: str) -> bool:
        self.user = username
        if self.node.banner:
            self.connection.send_auth_banner(self.node.banner)
        return self.node.method != "none"

    def password_auth_supported(self) -> bool:
        return self.node.method in ("password", "partial", "expired") and not self.password_good

    def kbdint_auth_supported(self) -> bool:
        return self.node.method == "keyboard-interactive" or self.password_good

    def _right(self, password: str) -> bool:
        self.node.passwords.append(password)
        if self.node.cut == "password":
            self.connection.abort()
        return password == PASSWORD

    def validate_password(self, username: str, password: str) -> bool:
        if not self._right(password):
            return False
        if self.node.method == "expired":
            raise asyncssh.PasswordChangeRequired("You are required to change your password immediately.")
        if self.node.method == "partial":
            self.password_good = True
            return False
        return True

    def change_password(self, username: str, old_password: str, new_password: str) -> bool:
        self.node.passwords += [old_password, new_password]
        return True

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str):
        if self.password_good:
            return self._menu()
        return "", "", "", [("Password: ", False)]

    def _menu(self, before: str = ""):
        if self.node.hidden_question is not None:
            return "", "", "", [(self.node.hidden_question, False)]
        if self.node.duo is None:
            return True
        if self.node.duo == "auto":
            self.node.asked_phone.set()
            self.password_good = True
            return "", "Autopushing login request to phone...", "", []
        return "", "", "", [(before + DUO_MENU.format(user=self.user), True)]

    async def validate_kbdint_response(self, username: str, responses: list[str]):
        node = self.node
        if not self.password_good:
            if not self._right(responses[0]):
                return False
            self.password_good = True
            return self._menu()
        if node.hidden_question is not None:
            node.answers += responses
            return True
        if node.duo == "auto":
            return True
        if not responses:
            return False
        node.factors.append(responses[0])
        if node.cut == "duo":
            self.connection.abort()
            return False
        if responses[0] == PASSCODE:
            return True
        if len(responses[0]) > 1:
            return self._menu("Incorrect passcode. Please try again.\n\n")
        if responses[0] == "3":
            return self._menu("New SMS passcodes sent.\n\n")
        node.asked_phone.set()
        if node.duo == "silent":
            await asyncio.Event().wait()
        if node.duo == "denied":
            self.password_good = False
            return "", "Login request denied.", "", []
        if node.duo == "again":
            return self._menu("Login request denied.\n\n")
        if node.duo == "timeout":
            return self._menu("Login timed out.\n\n")
        return True
