"""Deployments: what runs in each environment, and how it came there.

In: an environment, if one is chosen. Out: its state, and its newest deployments with their reports
and probes.
"""

from fastapi import Response

from db.deployments import deployments, environments
from db.pool import Connection
from worker.dashboard.frame import Frame, answer

LIMIT = 50


async def page(conn: Connection, frame: Frame) -> Response:
    environment = frame.query.get("environment")
    return answer(
        frame,
        "deployments.html",
        page="deployments",
        asking=0,
        states=await environments.list_states(conn),
        environment=environment,
        rows=await deployments.get_recent(conn, environment, LIMIT),
    )
