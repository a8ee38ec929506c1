"""How much of what exact search finds an index finds: a sample.

In: a few stored vectors of each space that has an index, as queries. Out: the share of their
nearest memories that the index finds. Without an index there is nothing to compare, and it costs
one look at the catalogue.
"""

from typing import LiteralString

from pydantic import BaseModel, ConfigDict

from db.pool import Connection, fetch_all

QUERIES = 3
K = 10
# Below this a search misses what it should find.
RECALL_MIN = 0.9


class IndexRecall(BaseModel):
    """`recall` (0 to 1): the share of the `K` nearest that were found, the mean of `queries`."""

    model_config = ConfigDict(frozen=True)

    space_id: int
    index_name: str
    recall: float
    queries: int


# By distance and not by id: of equally near memories either is right. About a thousand rows are
# looked at to choose the queries.
SAMPLE: LiteralString = """
select i.space_id, i.index_name, avg(found.near::float8 / exact.near) as recall,
  count(*) as queries
from jobsworth.space_indexes() i
cross join lateral (
  select e.vector
  from jobsworth.embeddings e tablesample system ((
    select least(100, 100000 / greatest(c.reltuples, 1))
    from pg_class c where c.oid = 'jobsworth.embeddings'::regclass))
  where e.space_id = i.space_id
  order by random()
  limit %(queries)s) q
cross join lateral (
  select count(*) as near, max(n.distance) as farthest
  from jobsworth.nearest(
    i.space_id, q.vector, %(k)s, any_team => true, exact_rows => 2147483647) n) exact
cross join lateral (
  select count(*) filter (where n.distance <= exact.farthest + 1e-6) as near
  from jobsworth.nearest(i.space_id, q.vector, %(k)s, any_team => true, exact_rows => 0) n) found
where i.valid and exact.near > 0
group by i.space_id, i.index_name
order by i.space_id
"""


async def sample(conn: Connection, queries: int = QUERIES) -> list[IndexRecall]:
    """The recall of each index. Compares all vectors of its space, once for each query."""
    return await fetch_all(conn, SAMPLE, {"queries": queries, "k": K}, IndexRecall)
