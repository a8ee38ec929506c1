"""The test kit: your handlers under test, on real PostgreSQL, with the real parts of a worker.

With pytest the fixture `jobs` is a queue of the test's own:

    from jobsworth.testing import Jobs, ToolUse

    def test_greets_after_a_yes(jobs: Jobs) -> None:
        job = jobs.run("greet", {"name": "Ada", "times": 5})
        assert job.waiting_for == "approval"
        jobs.approve("Really greet")
        [job] = jobs.drain()
        assert job.result.startswith("Hello, Ada!")

See docs/testing.md.
"""

from jobsworth.testing.jobs import Jobs
from jobsworth.testing.model import Charge, Refusal, ScriptedModel, ToolUse

__all__ = ["Charge", "Jobs", "Refusal", "ScriptedModel", "ToolUse"]
