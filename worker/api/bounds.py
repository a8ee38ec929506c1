"""What every request may take: bytes of headers and body, and the time to send them.

In: an ASGI request. Out: the same, with a request id; or a problem. Invariant: nothing is buffered
beyond the limits, and no connection to the database is held while a body comes in.
"""

import re
from uuid import uuid4

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.api.problems import HeaderTooLarge, TooLarge, TooSlow, problem_of

BODY_BYTES_MAX = 2 * 2**20
HEADER_BYTES_MAX = 16 * 2**10
BODY_SECONDS_MAX = 20.0
ID_HEADER = "x-request-id"
_ID = re.compile(r"[!-~]{1,200}")


class Bounds:
    """Wraps an application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_bytes_max: int = BODY_BYTES_MAX,
        body_seconds_max: float = BODY_SECONDS_MAX,
    ) -> None:
        self._app = app
        self._bytes_max = body_bytes_max
        self._seconds_max = body_seconds_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(ID_HEADER, "")
        request_id = given if _ID.fullmatch(given) else str(uuid4())
        scope["request_id"] = request_id
        refusals: list[Exception] = []
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[ID_HEADER] = request_id
            await send(message)

        async def answer_unless_refused(message: Message) -> None:
            # Whatever the application makes of a body that is cut off, the refusal is the answer.
            if not refusals:
                await answer(message)

        try:
            self._check(scope, headers)
            bounded = self._bounded(receive, refusals)
            await self._app(scope, bounded, answer_unless_refused)
        except Exception as error:
            if begun:
                raise
            refusals.append(error)
        if refusals and not begun:
            await problem_of(request_id, refusals[0])(scope, receive, answer)

    def _check(self, scope: Scope, headers: Headers) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES_MAX:
            raise HeaderTooLarge(
                f"the headers of this request are longer than {HEADER_BYTES_MAX:,} bytes",
                "send fewer or shorter headers",
            )
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._bytes_max:
            raise self._too_large()

    def _bounded(self, receive: Receive, refusals: list[Exception]) -> Receive:
        received = 0
        ended = False
        ends_at = anyio.current_time() + self._seconds_max

        async def bounded() -> Message:
            nonlocal received, ended
            if ended:
                return await receive()
            message: Message = {}
            with anyio.move_on_at(ends_at) as waited:
                message = await receive()
            if waited.cancelled_caught:
                refusals.append(
                    TooSlow(f"the body did not come within {self._seconds_max:g} s", "send faster")
                )
                raise refusals[-1]
            received += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if received > self._bytes_max:
                refusals.append(self._too_large())
                raise refusals[-1]
            return message

        return bounded

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is larger than {self._bytes_max:,} bytes", "send less, or a uri of it"
        )
