"""Which embedder a worker uses: an endpoint, or the offline lexical one."""

from worker.memory.embedders import TIMEOUT_SECONDS, Embedder, HashingEmbedder


def from_settings(
    *,
    url: str | None,
    model: str | None,
    key: str | None,
    dimensions: int,
    batch_max: int = 64,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Embedder:
    """The endpoint at `url`, or the offline embedder if `url` is None. Close it after use."""
    if url is None:
        return HashingEmbedder(dimensions)
    # Only where an endpoint is used: httpx takes 9 MB of a worker's memory.
    from worker.memory.openai_embedder import OpenAIEmbedder

    return OpenAIEmbedder(
        url,
        model or "",
        key=key,
        dimensions=dimensions,
        batch_max=batch_max,
        timeout_seconds=timeout_seconds,
    )
