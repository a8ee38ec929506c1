"""The shipped modes speak as the agent of their job."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

from db.people import agents
from tests.providers.openai_stub import OpenAIStub
from tests.worker.modes.brain import Brain, system_of
from tests.worker.modes.chat import Chat, chatting

SAID: LiteralString = "select model from jobsworth.chat_messages where role <> 'user'"
OF_AGENT: LiteralString = """
update jobsworth.chat_threads set agent_id = %(agent)s where id = %(thread)s
"""


async def talk_to(chat: Chat, name: str, **ways: str) -> UUID:
    """From here on the thread's messages are for this agent."""
    async with chat.database.connection() as conn:
        agent = await agents.save(conn, name, **ways)  # pyright: ignore[reportArgumentType]
    await chat.database.execute(OF_AGENT, {"agent": agent.id, "thread": chat.thread_id})
    return agent.id


async def test_an_agent_answers_with_its_model_its_personality_and_its_instructions(
    database_url: str,
) -> None:
    brain = Brain()
    with OpenAIStub(reply=brain.reply) as provider:
        async with chatting(database_url, provider, instructions="Be kind.") as chat:
            agent_id = await talk_to(
                chat, "dry", model="openai:chat-2", personality="Dry.", instructions="Be brief."
            )
            classify, answer = await chat.say("When does the shop open?")
            assert {classify.agent_id, answer.agent_id} == {agent_id}
            assert answer.result == {"text": "At nine."}
            assert {body["model"] for body in brain.bodies} == {"chat-2"}
            assert "Be kind.\n\nDry.\n\nBe brief." in system_of(brain.bodies[-1])
            [said] = await chat.rows(SAID)
            assert said["model"] == "openai:chat-2"
            await talk_to(chat, "lost", model="nowhere")
            [failed] = await chat.say("And on Sundays?")
            assert failed.status == "failed"
            wrong = "agent lost has the model 'nowhere', which cannot be used"
            assert wrong in (failed.error or "")
