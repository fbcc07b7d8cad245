"""Who may speak to the server: checked for every request, before any route exists, so that no route can forget.

Loopback alone is no wall: any web page the user has open can send requests there, and a rebound name makes them
same-origin. So each request needs a known Host, the session's token, and must not come from another site; one that
changes something needs a header that a foreign form cannot send. SECURITY.md has the threat model.
"""

import hmac
import json
import traceback
from http.cookies import SimpleCookie
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY = 1_000_000  # bytes that a request may carry
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
TOO_LONG = f"the request is longer than {BODY} bytes"
ENTER = "Open the address that `strobe serve` printed: it carries the token of this session."


class Guard:
    """ASGI middleware: refuse with one sentence, or pass the request on and harden the answer.

    401 without the token (cookie `strobe_PORT` or `Authorization: Bearer`), 403 for a foreign Host, Origin or site,
    and for a POST without `X-Strobe`, 413 for a body above `BODY`. `/?token=...` sets the cookie and goes to `/`.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: set[str], cookie: str) -> None:
        self.app, self.token, self.hosts, self.cookie = app, token, hosts, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there is no websocket route
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        if refusal := self._refuses(scope, headers):
            return await _answer(send, *refusal)
        if scope["method"] in ("GET", "HEAD") and scope["path"] == "/" and self._named(scope):
            cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            return await _answer(send, 303, "", {"location": "/", "set-cookie": cookie})
        if not self._known(headers):
            return await _answer(send, 401, ENTER)
        seen, refused, started = 0, False, False

        async def measured() -> Message:
            nonlocal seen, refused
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > BODY:  # a body sent in chunks announces no length
                refused = True
                await _answer(send, 413, TOO_LONG)
                return {"type": "http.disconnect"}
            return message

        async def harden(message: Message) -> None:
            nonlocal started
            if refused:  # answered already
                return
            if message["type"] == "http.response.start":
                started = True
                kept = [(k, v) for k, v in message["headers"] if k.decode().lower() not in HEADERS]
                message["headers"] = kept + [(k.encode(), v.encode()) for k, v in HEADERS.items()]
            await send(message)

        try:
            await self.app(scope, measured, harden)
        except Exception:  # ours, not the asker's: it is said there, and explained here
            traceback.print_exc()
            if not started:
                await _answer(send, 500, "the server failed at this request; its terminal says more")

    def _refuses(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if host.lower() not in self.hosts:
            return 403, f"this server does not answer to the name {host[:100]!r}; use {min(self.hosts)}"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return 403, "a request from another origin is refused"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "a request from another site is refused"
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and headers.get("x-strobe") != "1":
            return 403, "a request that changes something needs the header X-Strobe: 1"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > BODY:
            return 413, TOO_LONG
        return None

    def _named(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return self._same(given)

    def _known(self, headers: dict[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._same(given.strip()):
            return True
        jar: SimpleCookie = SimpleCookie()
        try:
            jar.load(headers.get("cookie", ""))
        except Exception:  # a cookie that is none
            return False
        return self.cookie in jar and self._same(jar[self.cookie].value)

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


async def _answer(send: Send, status: int, text: str, more: dict[str, str] | None = None) -> None:
    body = json.dumps({"error": text}).encode() if text else b""
    headers = {**HEADERS, "content-type": "application/json", "content-length": str(len(body)), **(more or {})}
    start = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
