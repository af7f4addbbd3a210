"""People of a hub: each starts a server and runs code in a kernel of it, as a notebook does."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.websocket import websocket_connect

PATIENCE = 120.0


class Person:
    """Somebody who has an account at the hub; `token` may play all of them."""

    def __init__(self, public: str, token: str, name: str) -> None:
        self.public = public
        self.name = name
        self.headers = {"Authorization": f"token {token}"}

    async def ask(self, method: str, path: str, body: Any = None, *, known: bool = True) -> HTTPResponse:
        """Send a request, as this person or as nobody known."""
        text = json.dumps(body) if body is not None else "" if method == "POST" else None
        request = HTTPRequest(
            self.public + path,
            method=method,
            headers=self.headers if known else {},
            body=text,
            request_timeout=PATIENCE,
            follow_redirects=False,
        )
        return await AsyncHTTPClient().fetch(request, raise_error=False)

    async def start(self) -> None:
        """Start this person's server and a kernel in it."""
        await self.ask("POST", f"/hub/api/users/{self.name}")
        await self.ask("POST", f"/hub/api/users/{self.name}/server")
        deadline = time.monotonic() + PATIENCE
        while True:
            user = json.loads((await self.ask("GET", f"/hub/api/users/{self.name}")).body)
            if user.get("servers", {}).get("", {}).get("ready"):
                break
            assert time.monotonic() < deadline, user
            await asyncio.sleep(0.2)
        answer = await self.ask("POST", f"/user/{self.name}/api/kernels", {"name": "python3"})
        assert answer.code == 201, answer.body
        kernel = json.loads(answer.body)["id"]
        url = f"{self.public.replace('http', 'ws', 1)}/user/{self.name}/api/kernels/{kernel}/channels"
        self.socket = await websocket_connect(HTTPRequest(url, headers=self.headers), max_message_size=2**26)

    async def run(self, code: str) -> str:
        """Run code in the kernel; return what it prints, and its traceback."""
        mark = uuid.uuid4().hex
        header = {"msg_id": mark, "msg_type": "execute_request", "username": "", "session": mark, "version": "5.3"}
        content = {
            "code": code,
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
        }
        message = {"header": header, "parent_header": {}, "metadata": {}, "channel": "shell", "content": content}
        await self.socket.write_message(json.dumps(message))
        said, deadline = [], time.monotonic() + PATIENCE
        while True:
            text = await asyncio.wait_for(self.socket.read_message(), max(0.1, deadline - time.monotonic()))
            assert text is not None, "the kernel is gone"
            answer = json.loads(text)
            if answer["parent_header"].get("msg_id") != mark:
                continue
            if answer["msg_type"] == "stream":
                said.append(answer["content"]["text"])
            if answer["msg_type"] == "error":
                said += answer["content"]["traceback"]
            if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                return "".join(said)
