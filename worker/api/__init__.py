"""The HTTP API: what an operator, a bridge or a dashboard asks and orders, as JSON.

In: requests with a token. Out: documents of `db/`, or a problem (RFC 9457) with its remedy.
Invariant: a route is a few lines: it parses, calls one operation of `db/`, and answers its model;
what the caller may see is decided by row-level security, in a transaction of the caller's team.

How the parts fit, and what a router of pages (`worker.dashboard.router.router_for`) relies on:

- `app.create_api(database, …, routers=…)` is the ASGI application. Each of `routers` is a function
  `router_for(gate: Gate) -> fastapi.APIRouter`; the face (`worker.web.face.app_for`) passes the
  dashboard's, which has its pages under `/ui`. The API has `/runs`, `/jobs` and so on.
- `access.Gate` lets callers in: `await gate.admit(request)` is the `Caller` of the bearer token, or
  of this machine where no token was ever issued; `await gate.admit_text(text)` is that of a token
  from elsewhere (a cookie of a session). Both raise `Unauthorized`. `gate.access(caller)`
  is the `Access` below.
- `access.Access`: `async with access.reading() as conn` is a read-only transaction in which the
  caller's team is all there is; `async with access.acting(seen, …) as conn` is a connection with a
  worker's rights, after each `seen(conn)` (a read, such as `jobs.get_by_id`) found its row in the
  caller's scope. `access.caller.require("jobs:write")` raises `Forbidden`.
- Scopes are `NOUN:read` and `NOUN:write` for the nouns of the paths, and `*` for all.
- `request.scope["root_path"]` is the base path, wherever the application is mounted.
- Errors of `db.errors` may leave every route: `problems` answers them. A router of pages that wants
  pages for them gives its routes a class of its own.
"""
