"""Which embedder a worker uses: an endpoint, or the offline lexical one; and its space."""

from worker.memory.embedders import TIMEOUT_SECONDS, Embedder, HashingEmbedder
from worker.settings import Settings


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


def embedder_of(settings: Settings) -> Embedder:
    """The embedder of these settings. Close it after use."""
    return from_settings(
        url=settings.embedder_url,
        model=settings.embedder_model,
        key=settings.embedder_key.get_secret_value() if settings.embedder_key else None,
        dimensions=settings.embedder_dimensions,
        batch_max=settings.embed_batch_max,
    )


def space_of(settings: Settings) -> tuple[str, int]:
    """The model and the dimensions of the embedder of these settings."""
    dimensions = settings.embedder_dimensions
    if settings.embedder_url is None:
        return HashingEmbedder(dimensions).model, dimensions
    return settings.embedder_model or "", dimensions
