"""What spans and their attributes are called: the one file that knows the conventions.

In: what the worker does. Out: names and attributes. Model calls, agents and tools follow the
OpenTelemetry semantic conventions for generative AI (`gen_ai.*`, in development:
https://github.com/open-telemetry/semantic-conventions-genai); what is ours is `jobsworth.*`.

Invariant: no attribute holds a payload, a prompt, an answer, a proposal or the text of an error.
Names of modes, steps, agents, tools and models are what authors of handlers wrote.
"""

from db.money.calls import Usage
from db.queue.claim import Claimed
from worker.tracing.spans import Attributes, Described

# A name may be long, and a step's may hold what a handler put into it.
NAME_CHARACTERS_MAX = 200
# How providers are called here, and in the conventions.
PROVIDERS = {"google": "gcp.gemini", "azure": "azure.ai.openai", "bedrock": "aws.bedrock"}


def enqueued(job: Claimed) -> Described:
    """From the time at which a job was ready to its first claim."""
    return Described(f"enqueue {_short(job.mode)}", _of_job(job), "producer")


def attempt(job: Claimed) -> Described:
    """One attempt, from its claim to its ending."""
    more = {"jobsworth.attempt": job.attempt, "jobsworth.failures": job.failures}
    return Described(f"attempt {_short(job.mode)}", {**_of_job(job), **more}, "consumer")


def step(name: str) -> Described:
    """A step that runs; one that is read from its record has no span."""
    return Described(f"step {_short(name)}", {"jobsworth.step": _short(name)})


def agent(name: str, agent_name: str | None) -> Described:
    """A run of an agent within an attempt."""
    called = _short(agent_name or name)
    return Described(
        f"invoke_agent {called}",
        {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": called,
            "jobsworth.agent": _short(name),
        },
    )


def tool(name: str, call_id: str) -> Described:
    """A call of a tool by an agent."""
    return Described(
        f"execute_tool {_short(name)}",
        {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": _short(name),
            "gen_ai.tool.call.id": _short(call_id),
        },
    )


def call(provider: str, model: str, name: str) -> Described:
    """A paid call, from its booking to its settlement."""
    return Described(
        f"chat {_short(model)}",
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDERS.get(provider, _short(provider)),
            "gen_ai.request.model": _short(model),
            "jobsworth.step": _short(name),
        },
        "client",
    )


def settled(
    status: str, usage: Usage | None, cost: float | None, model: str | None, reason: str | None
) -> Attributes:
    """What is known of a call when it is settled; an unknown cost is left out."""
    return {
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": usage.input_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.output_tokens if usage else None,
        "jobsworth.call.status": status,
        "jobsworth.call.cost_usd": cost,
        "jobsworth.call.finish_reason": reason,
    }


def approval(approved: bool, channel: str | None) -> Described:
    """A wait for a decision, from the question to the decision."""
    attributes = {"jobsworth.approved": approved, "jobsworth.channel": channel}
    return Described("approval", attributes)


def phase(environment: str, name: str) -> Described:
    """A phase of a deployment that runs."""
    attributes = {"jobsworth.environment": _short(environment), "jobsworth.phase": name}
    return Described(f"deployment {name}", attributes)


def _of_job(job: Claimed) -> dict[str, str | int | float | bool | None]:
    return {
        "jobsworth.job.id": str(job.id),
        "jobsworth.mode": _short(job.mode),
        "jobsworth.queue": _short(job.queue),
        "jobsworth.run.id": None if job.run_id is None else str(job.run_id),
        "jobsworth.node": job.node,
        "jobsworth.request.id": job.request_id,
        "gen_ai.conversation.id": None if job.thread_id is None else str(job.thread_id),
    }


def _short(name: str) -> str:
    return name[:NAME_CHARACTERS_MAX]
