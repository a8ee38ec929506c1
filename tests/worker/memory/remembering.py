"""A user's handlers, for tests that need a daemon whose jobs remember something."""

from jobsworth import Job, handler


@handler("remember")
async def remember(job: Job, text: str) -> str:
    job.remember(text)
    return text
