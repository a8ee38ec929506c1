"""The routes of the dashboard.

In: requests, and how a caller is let in (`Door`). Out: pages, and after each action a redirect to
the page it was done on, so that a reload repeats nothing and back works. Invariant: an action is
committed before its redirect; an error of ours is a page that says what to do.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from db.conversations.threads import get_by_id as find_thread
from db.errors import (
    Conflict,
    InvalidInput,
    JobsworthError,
    NotFound,
    Refused,
    Unavailable,
)
from db.pool import Connection
from worker.api.access import Gate, Seen
from worker.api.problems import Forbidden, Unauthorized
from worker.cli.terminal.ids import find_approval, find_job, find_run, whole_id
from worker.cli.terminal.ids import typed as typed_id
from worker.dashboard import forms
from worker.dashboard.door import TOKEN_COOKIE, Door, Visitor
from worker.dashboard.frame import FOLDER, Frame, Said, address, answer, asked
from worker.dashboard.pages import (
    approvals,
    bulk,
    deployments,
    fork,
    job,
    jobs,
    limits,
    memory,
    now,
    people,
    runs,
    spend,
    system,
    threads,
)
from worker.memory.choice import offline_embedder
from worker.settings import Settings, load_settings, load_settings_despite_unknown_names

PREFIX = "/ui"
CODES = (
    (NotFound, 404),
    (InvalidInput, 400),
    (Conflict, 409),
    (Refused, 403),
    (Forbidden, 403),
    (Unavailable, 503),
)
TITLES = {404: "Not found", 400: "That cannot be asked", 409: "That cannot be done", 403: "Refused"}
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
STATIC_SECONDS = 300
SESSION_SECONDS = 12 * 3_600

Render = Callable[[Connection, Frame], Awaitable[Response]]
RenderOne = Callable[[Connection, Frame, str], Awaitable[Response]]
Act = Callable[[Visitor, Frame, dict[str, str]], Awaitable[Said]]
Route = Callable[..., Awaitable[Response]]

# Path, page, and the noun whose scope (`jobs:read`) lets a caller see it.
PAGES: tuple[tuple[str, Render, str], ...] = (
    ("", now.page, "jobs"),
    ("/", now.page, "jobs"),
    ("/jobs", jobs.page, "jobs"),
    ("/jobs/bulk", bulk.page, "jobs"),
    ("/approvals", approvals.page, "approvals"),
    ("/runs", runs.page, "runs"),
    ("/spend", spend.page, "ledger"),
    ("/deployments", deployments.page, "deployments"),
    ("/memory", memory.page, "memories"),
    ("/threads", threads.page, "threads"),
    ("/people", people.page, "agents"),
    ("/system", system.page, "queues"),
)
PAGES_OF_ONE: tuple[tuple[str, RenderOne, str], ...] = (
    ("/jobs/{id}", job.page, "jobs"),
    ("/approvals/{id}", approvals.one, "approvals"),
    ("/runs/{id}", runs.one, "runs"),
    ("/runs/{id}/fork", fork.page, "runs"),
    ("/threads/{id}", threads.one, "threads"),
    ("/memory/{id}", memory.one, "memories"),
    ("/limits/{id:path}", limits.one, "queues"),
)


def router_for(gate: Gate) -> APIRouter:
    """The pages, for the application of the API."""
    desk = Desk(Door(gate), load_settings_despite_unknown_names() or load_settings())
    router = APIRouter(prefix=PREFIX)
    for path, render, noun in PAGES:
        router.add_api_route(path, desk.page(render, noun), methods=["GET"])
    for path, render_one, noun in PAGES_OF_ONE:
        router.add_api_route(path, desk.page_of(render_one, noun), methods=["GET"])
    router.add_api_route("/artifacts/{id}", desk.artifact, methods=["GET"])
    router.add_api_route("/static/{name}", desk.static, methods=["GET"])
    router.add_api_route("/login", desk.login_page, methods=["GET"])
    for path, act in (
        ("/login", desk.login),
        ("/logout", desk.logout),
        ("/jobs/bulk", desk.act_on_many),
        ("/jobs/{id}/{action}", desk.act_on_job),
        ("/approvals/{id}/decide", desk.decide),
        ("/runs/{id}/fork", desk.fork),
        ("/runs/{id}/{action}", desk.act_on_run),
        ("/threads", desk.begin_thread),
        ("/threads/{id}/say", desk.say),
        ("/deployments/{action}", desk.deploy),
        ("/people/{noun}/{id}/{action}", desk.act_on_people),
        ("/queues/{id:path}/{action}", desk.act_on_queue),
        ("/limits/{id:path}/{action}", desk.act_on_limit),
        ("/memory/{id}/{action}", desk.act_on_memory),
    ):
        router.add_api_route(path, act, methods=["POST"])
    outer = APIRouter()
    outer.add_api_route("/", desk.front, methods=["GET"])
    outer.include_router(router)
    return outer


class Desk:
    """Answers requests with the pages' help."""

    def __init__(self, door: Door, settings: Settings) -> None:
        self._door = door
        self._settings = settings
        # A model is loaded once, with the first search.
        self._embedder = cache(lambda: offline_embedder(settings))
        self._files = {
            path.name: (path.read_bytes(), TYPES[path.suffix])
            for path in (FOLDER / "static").iterdir()
            if path.suffix in TYPES
        }

    def page(self, render: Render, noun: str) -> Route:
        """The route of a page without an id."""

        async def show(request: Request) -> Response:
            return await self._show(request, noun, render)

        return show

    def page_of(self, render: RenderOne, noun: str) -> Route:
        """The route of a page about one thing."""

        async def show(request: Request, id: str) -> Response:
            return await self._show(request, noun, lambda conn, frame: render(conn, frame, id))

        return show

    async def artifact(self, request: Request, id: UUID) -> Response:
        return await self._show(
            request, "artifacts", lambda conn, frame: job.artifact(conn, frame, id)
        )

    async def act_on_job(self, request: Request, id: str, action: str) -> Response:
        async def act(visitor: Visitor, frame: Frame, fields: dict[str, str]) -> Said:
            return Said(await job.act(visitor.conn, frame, id, action, fields))

        seen: Seen = lambda conn: find_job(conn, typed_id(id, "job"))  # noqa: E731
        return await self._act(request, "jobs", act, [seen])

    async def act_on_many(self, request: Request) -> Response:
        return await self._act(request, "jobs", bulk.start, keeps_to_team=True)

    async def decide(self, request: Request, id: str) -> Response:
        async def act(visitor: Visitor, frame: Frame, fields: dict[str, str]) -> Said:
            return approvals.told(await approvals.decide(visitor.conn, frame, id, fields))

        seen: Seen = lambda conn: find_approval(conn, typed_id(id, "approval"))  # noqa: E731
        return await self._act(request, "approvals", act, [seen])

    async def act_on_run(self, request: Request, id: str, action: str) -> Response:
        async def act(visitor: Visitor, frame: Frame, _: dict[str, str]) -> Said:
            return Said(await runs.act(visitor.conn, frame, id, action))

        seen: Seen = lambda conn: find_run(conn, typed_id(id, "run"))  # noqa: E731
        return await self._act(request, "runs", act, [seen])

    async def fork(self, request: Request, id: str) -> Response:
        async def act(visitor: Visitor, frame: Frame, fields: dict[str, str]) -> Said:
            return await fork.make(visitor, frame, id, fields)

        seen: Seen = lambda conn: find_run(conn, typed_id(id, "run"))  # noqa: E731
        return await self._act(request, "runs", act, [seen])

    async def begin_thread(self, request: Request) -> Response:
        return await self._act(request, "threads", threads.begin, keeps_to_team=True)

    async def say(self, request: Request, id: str) -> Response:
        async def act(visitor: Visitor, frame: Frame, fields: dict[str, str]) -> Said:
            return await threads.say(visitor, frame, id, fields)

        seen: Seen = lambda conn: find_thread(conn, whole_id(id, "thread"))  # noqa: E731
        return await self._act(request, "threads", act, [seen])

    async def deploy(self, request: Request, action: str) -> Response:
        async def act(visitor: Visitor, frame: Frame, fields: dict[str, str]) -> Said:
            return await deployments.act(visitor, frame, action, fields)

        return await self._act(request, "deployments", act, keeps_to_team=True)

    async def act_on_people(self, request: Request, noun: str, id: str, action: str) -> Response:
        async def act(visitor: Visitor, _: Frame, __: dict[str, str]) -> Said:
            return Said(await people.act(visitor.conn, noun, id, action))

        return await self._act(request, noun, act)

    async def act_on_queue(self, request: Request, id: str, action: str) -> Response:
        async def act(visitor: Visitor, _: Frame, __: dict[str, str]) -> Said:
            return Said(await system.act(visitor.conn, id, action))

        return await self._act(request, "queues", act)

    async def act_on_limit(self, request: Request, id: str, action: str) -> Response:
        async def act(visitor: Visitor, frame: Frame, fields: dict[str, str]) -> Said:
            return await limits.act(visitor.conn, frame, id, action, fields)

        return await self._act(request, "queues", act)

    async def act_on_memory(self, request: Request, id: str, action: str) -> Response:
        async def act(visitor: Visitor, frame: Frame, fields: dict[str, str]) -> Said:
            return Said(await memory.act(visitor.conn, frame, id, action, fields))

        seen: Seen = lambda conn: memory.find(conn, id)  # noqa: E731
        return await self._act(request, "memories", act, [seen])

    async def front(self, request: Request) -> Response:
        """Where the API is at home, a person is shown the way."""
        return RedirectResponse(self._frame(request, None).url(), 307)

    async def login_page(self, request: Request) -> Response:
        frame = self._frame(request, None)
        return self._finished(request, frame, answer(frame, "login.html"))

    async def login(self, request: Request) -> Response:
        """Let a token in: it becomes the cookie of the session."""
        frame = self._frame(request, None)
        try:
            fields = await forms.read(request)
            token = fields.get("token", "").strip()
            await self._door.check(token)
        except (Unauthorized, InvalidInput) as error:
            response: Response = RedirectResponse(frame.url("login"), 303)
            forms.say(response, Said(error.message, is_bad=True), frame.base, request)
            return response
        except JobsworthError as error:
            return _failed(frame, error)
        response = RedirectResponse(forms.way_back(fields, frame.base), 303)
        forms.set_cookie(
            response, TOKEN_COOKIE, token, frame.base, request, seconds=SESSION_SECONDS
        )
        return response

    async def logout(self, request: Request) -> Response:
        frame = self._frame(request, None)
        try:
            await forms.read(request)
        except JobsworthError as error:
            return _failed(frame, error)
        response = RedirectResponse(frame.url("login"), 303)
        response.delete_cookie(TOKEN_COOKIE, path=frame.base)
        return response

    async def static(self, name: str) -> Response:
        if name not in self._files:
            return Response(status_code=404)
        content, media_type = self._files[name]
        kept = {
            "cache-control": f"max-age={STATIC_SECONDS}",
            "x-content-type-options": "nosniff",
        }
        return Response(content, headers=kept, media_type=media_type)

    async def _show(self, request: Request, noun: str, render: Render) -> Response:
        frame = self._frame(request, None)
        try:
            async with self._door.reading(request, noun) as visitor:
                frame = self._frame(request, visitor)
                response = await render(visitor.conn, frame)
        except Unauthorized:
            return RedirectResponse(frame.url("login", back=address(frame.path, frame.query)), 303)
        except JobsworthError as error:
            response = _failed(frame, error)
        return self._finished(request, frame, response)

    async def _act(
        self,
        request: Request,
        noun: str,
        act: Act,
        seen: Sequence[Seen] = (),
        *,
        keeps_to_team: bool = False,
    ) -> Response:
        """Do it, and go back to the page with what there is to say."""
        frame = self._frame(request, None)
        back = frame.base
        try:
            fields = await forms.read(request)
            back = forms.way_back(fields, frame.base)
            acting = self._door.acting(request, noun, seen, keeps_to_team=keeps_to_team)
            async with acting as visitor:
                said = await act(visitor, self._frame(request, visitor), fields)
        except Unauthorized:
            return RedirectResponse(frame.url("login", back=back), 303)
        except (Conflict, InvalidInput) as error:
            said = Said(f"Nothing was changed: {error.message}. {error.remedy}", is_bad=True)
        except JobsworthError as error:
            return _failed(frame, error)
        response = RedirectResponse(said.to or back, 303)
        if said.text:
            forms.say(response, said, frame.base, request)
        return response

    def _frame(self, request: Request, visitor: Visitor | None) -> Frame:
        return Frame(
            base=request.scope.get("root_path", "") + PREFIX,
            path=request.url.path,
            query=asked(request),
            who=visitor.who if visitor else "nobody",
            may_write=visitor is not None and visitor.may_write,
            settings=self._settings,
            embedder=self._embedder,
            form=forms.form_token(request),
            may=visitor.caller.may if visitor else _nothing,
            said=forms.said(request),
            signed_in=visitor is not None and visitor.signed_in,
        )

    def _finished(self, request: Request, frame: Frame, response: Response) -> Response:
        """The page, with the cookies that its forms and its next page need."""
        forms.set_cookie(response, forms.FORM_COOKIE, frame.form, frame.base, request)
        if frame.said is not None:
            response.delete_cookie(forms.SAID_COOKIE, path=frame.base)
        return response


def _nothing(scope: str) -> bool:
    return False


def _failed(frame: Frame, error: JobsworthError) -> Response:
    code = next((code for kind, code in CODES if isinstance(error, kind)), 500)
    return answer(
        frame,
        "error.html",
        code,
        page="",
        asking=0,
        title=TITLES.get(code, "That did not work"),
        message=error.message,
        remedy=error.remedy,
    )
