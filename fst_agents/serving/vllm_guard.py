"""Runs inside the vLLM server: lets nobody in without the key, on no route.

Named by ``--middleware``. vLLM's own key guards the routes under a few prefixes only; those that
reload weights, pause or run code in the workers (``/collective_rpc``) stay open to whoever reaches
the server, as do ``/invocations``, which samples, and ``/docs``. vLLM wraps the middleware named on
its command line around all others, so here every request passes first. Imports nothing of this
project and of vLLM.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

KEY_VARIABLE = "VLLM_API_KEY"
"""Holds the key; the same variable from which vLLM takes its own."""

PUBLIC = frozenset({"/health", "/v1/models", "/v1/completions", "/v1/chat/completions"})
"""What :class:`PublicGuard` lets pass: sampling, and what a client asks before it samples."""

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class KeyGuard:
    """ASGI middleware: 401 for every request without ``Authorization: Bearer <key>``.

    Raises:
        RuntimeError: there is no key, so that the server does not start unguarded.
    """

    def __init__(self, app: App) -> None:
        key = os.environ.get(KEY_VARIABLE)
        if not key:
            raise RuntimeError(f"{KEY_VARIABLE} is not set; a guarded server needs a key")
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # the server's own start and end, not a request
            await self._app(scope, receive, send)
        elif not self._has_key(scope):
            await _refuse(scope, send, 401, "Unauthorized: send Authorization: Bearer <key>")
        elif not self.passes(scope):
            await _refuse(scope, send, 404, "Not Found: this server only samples")
        else:
            await self._app(scope, receive, send)

    def passes(self, scope: Scope) -> bool:
        """Whether a request with the key may go on; here all may."""
        return True

    def _has_key(self, scope: Scope) -> bool:
        sent = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if len(sent) != 1:
            return False
        scheme, _, key = sent[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key, self._key)


class PublicGuard(KeyGuard):
    """For a server that others may reach: also with the key, only the routes of ``PUBLIC``."""

    def passes(self, scope: Scope) -> bool:
        return scope["type"] == "http" and scope["path"] in PUBLIC


async def _refuse(scope: Scope, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket":  # closed before it is accepted: the client sees a 403
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps({"error": {"message": message, "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
