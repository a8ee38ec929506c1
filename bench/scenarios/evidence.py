"""What a search for memories finds: the shipped pairs, by each offline embedder."""

import asyncio
from collections.abc import Iterator

from bench.lab import OURS, Lab
from bench.results import Figure
from db.migrate import migrate
from db.pool import Database
from worker.memory.account import PayersAccount
from worker.memory.bench.data_sets import SHIPPED, read
from worker.memory.bench.evidence import PLACES, KindResult, measure
from worker.memory.embedders import Embedder, HashingEmbedder
from worker.memory.semantic.embedder import SemanticEmbedder
from worker.settings import load_settings

NAME = "evidence"
TITLE = "What a search for memories finds"
METHOD = """
`jobsworth memory bench`: 305 questions, each with the one text that answers it, and all 305 texts
in one haystack: paraphrases that share no word with their question but grammar, identifiers among
others that differ in one or two signs, dates, negations beside what they negate, near-duplicates.
The share of questions whose text is the first, among the first 5, among the first 10. "lexical" is
the hashing embedder of the base installation, "semantic" the extra of that name. The search is the
one that `job.recall` makes. One run: nothing in it is left to chance.
"""


def run(lab: Lab) -> Iterator[Figure]:
    """Both embedders in one database."""
    if lab.contender(OURS) is None:
        return
    url = lab.server.database("evidence")
    migrate(url, "jobsworth")
    for name, embedder in (("lexical", HashingEmbedder()), ("semantic", SemanticEmbedder())):
        lab.say(f"{NAME}: {name}")
        for result in asyncio.run(_results(url, embedder)):
            for place, recall in zip(PLACES, result.recall, strict=True):
                yield Figure(NAME, OURS, f"R@{place}", f"{name}, {result.kind}", (recall,))


async def _results(url: str, embedder: Embedder) -> list[KindResult]:
    async with Database(url) as database, database.connection() as connection:
        try:
            settings = load_settings(database_url=url)
            account = PayersAccount.of_command(database, settings, embedder.model, NAME)
            return await measure(connection, embedder, account, read(SHIPPED))
        finally:
            await embedder.close()
