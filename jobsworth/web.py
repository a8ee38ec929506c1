"""The HTTP API and the dashboard, to mount in an ASGI application of your own.

from jobsworth import Database
from jobsworth.web import app_for

app.mount("/jobsworth", app_for(database))
"""

from worker.api.access import Caller
from worker.api.problems import Forbidden, Unauthorized
from worker.web.face import app_for

__all__ = ["Caller", "Forbidden", "Unauthorized", "app_for"]
