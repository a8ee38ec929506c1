"""Handlers of the daemon that the browser looks at."""

from jobsworth import Job, handler


@handler("greet", timeout_seconds=60)
async def greet(job: Job, name: str, times: int = 1) -> str:
    greeting = await job.step("compose", lambda: f"Hello, {name}! " * times)
    job.remember(greeting, kind="greeting")
    if times > 3:
        shown = {"text": greeting, "to": name}
        if not (await job.ask(f"Really greet {name} {times} times?", shows=shown)).approved:
            return "not greeted"
    return greeting.strip()


@handler("import", failures_max=1)
async def bring_in(job: Job, path: str) -> str:
    raise FileNotFoundError(f"there is no file {path}")


@handler("later")
async def later(job: Job) -> str:
    await job.sleep(7_200)
    return "awake"
