"""A guest, and an agent that remembers her: a correction, a recall by meaning, and an erasure.

In: two daemons at work. Out: who they are, what was remembered, what was recalled and why, and the
proof of the erasure. The steps: the guest tells the agent about herself, and the mode `remember`
extracts that; she corrects herself, which supersedes what she said; the agent recalls what it needs
to serve her; she asks to be forgotten, and all that names her leaves.
Invariant: she is erased when nothing of hers is left to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from db.conversations import messages, threads
from db.conversations.messages import MessageRole
from db.conversations.threads import Thread
from db.memory import outbox, status
from db.memory.status import Memory
from db.people import agents, erasure, teams, users
from db.people.agents import Agent
from db.people.erasure import Erasure
from db.pool import Database
from db.queue import jobs
from db.queue.jobs import Job
from db.queue.new_job import EnqueueOptions
from worker.demo.feed import PLATFORM
from worker.demo.provider.model import OFFLINE
from worker.demo.show import Show
from worker.demo.watch import Watch

HOST, GUEST = "Eli", "Mina"
TEAM = "tea house"
AGENT: agents.AgentWays = {
    # Its calls are erased with the guest, and so could not be compared with the provider's bill.
    "model": OFFLINE,
    "personality": "warm, and brief",
    "instructions": "Serve each guest as they like it.",
    "skills_shared": ["pour", "recommend"],
    "skills_private": ["remember names"],
    "skills_disabled": ["recommend"],
    "recency_weight": 0.2,
}
TOLD = (
    "I prefer sencha to oolong.",
    "I work at the harbour in Trieste.",
    "I never eat sesame.",
    "Is it raining?",
)
CORRECTED = "Actually, I prefer oolong to sencha."
MODE, WISH = "serve", "What would you rather drink?"


@dataclass(frozen=True, slots=True)
class GuestsResult:
    """What became of a guest: `memories` before the erasure, oldest first, and `left` after it.

    `hits` are what the agent recalled: text, score, and the parts of the score.
    """

    agent: Agent
    memories: Sequence[Memory]
    hits: Sequence[Mapping[str, Any]]
    erased: Erasure
    left: Sequence[Memory]


class Guests:
    """Plays the guest and her host."""

    def __init__(self, database: Database, watch: Watch, show: Show) -> None:
        self._database = database
        self._watch = watch
        self._show = show

    async def play(self) -> GuestsResult:
        """Play everything from the first word to the erasure."""
        async with self._database.connection() as connection:
            host = await users.save(connection, f"{PLATFORM}:host", HOST)
            guest = await users.save(connection, f"{PLATFORM}:guest", GUEST)
            team = await teams.save(connection, TEAM, host.id)
            await teams.put_in(connection, team.id, guest.id)
            agent = await agents.save(connection, "Sen", team.id, **AGENT)
            thread = await threads.get_or_create(
                connection,
                PLATFORM,
                f"the table of {GUEST}",
                team_id=team.id,
                user_id=guest.id,
                agent_id=agent.id,
            )
        await self._tell(thread, guest.id, TOLD)
        self._show.say(f"{GUEST} told {agent.name}, an agent of the {TEAM}, about herself")
        await self._tell(thread, guest.id, [CORRECTED])
        self._show.say(f"{GUEST} corrected herself: “{CORRECTED}”")
        await self._watch.until("waiting until it is remembered", self._embedded)
        served = await self._run(MODE, {"wish": WISH}, thread)
        async with self._database.connection() as connection:
            memories = await status.list_memories(connection, team_id=team.id)
            erased = await erasure.erase(connection, "user", guest.id)
            left = await status.list_memories(connection, team_id=team.id)
        self._show.say(f"{agent.name} served her; then {GUEST} asked to be forgotten, and is")
        return GuestsResult(agent, memories[::-1], served.result or [], erased, left)

    async def _tell(self, thread: Thread, guest_id: UUID, said: Sequence[str]) -> None:
        async with self._database.connection() as connection:
            for text in said:
                await messages.insert(
                    connection, thread.id, MessageRole.USER, text, author_user_id=guest_id
                )
        await self._run("remember", {}, thread)

    async def _run(self, mode: str, payload: Mapping[str, Any], thread: Thread) -> Job:
        async with self._database.connection() as connection:
            of_team: EnqueueOptions = {"thread_id": thread.id, "team_id": thread.team_id}
            job_id = (await jobs.enqueue(connection, mode, payload, **of_team)).job_id
        found: list[Job] = []

        async def ended() -> bool:
            found[:] = [job for job in self._watch.jobs if job.id == job_id and job.finished_at]
            return bool(found)

        await self._watch.until(f"waiting for the job of {GUEST}", ended)
        return found[0]

    async def _embedded(self) -> bool:
        async with self._database.connection() as connection:
            return (await outbox.counts(connection)).pending == 0


def problems_of(result: GuestsResult) -> list[str]:
    """Check that the correction is recalled in place of what it corrects, and that she is gone."""
    # The extractor may put words before what she said.
    superseded = [
        memory.text.endswith(TOLD[0]) and _successor(memory, result).endswith(CORRECTED)
        for memory in result.memories
        if memory.superseded_by is not None
    ]
    found: list[str] = []
    if superseded != [True]:
        found.append(
            f"a correction superseded {len(superseded)} memories, or others than it should"
        )
    recalled = [str(hit["text"]) for hit in result.hits]
    if not any(text.endswith(CORRECTED) for text in recalled) or any(
        text.endswith(TOLD[0]) for text in recalled
    ):
        found.append(f"what the guest corrected is not what was recalled: {recalled}")
    if result.left or not result.erased.removed.get("memories"):
        found.append(f"{len(result.left)} memories of the erased guest are left")
    found += [
        f"of the erased guest something is in {trace.table_name}.{trace.column_name}"
        for trace in result.erased.proof.traces
    ]
    return found


def _successor(memory: Memory, result: GuestsResult) -> str:
    return next((one.text for one in result.memories if one.id == memory.superseded_by), "")
