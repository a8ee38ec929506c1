"""OpenAI's Embeddings API: deterministic vectors, in which common words mean nearness."""

import zlib

from worker.demo.provider.completions import Body


def inputs_of(body: Body) -> list[str]:
    """The texts of a request: one, or a list."""
    given = body.get("input", [])
    return [given] if isinstance(given, str) else list(given)


def embeddings(model: str, texts: list[str], count: int, dimensions: int) -> Body:
    """The response with a vector for each text; `count` is their number of tokens."""
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(text, dimensions)}
        for index, text in enumerate(texts)
    ]
    return {
        "object": "list",
        "model": model,
        # Reversed: the API promises no order, so a client must use the index.
        "data": data[::-1],
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def _vector(text: str, dimensions: int) -> list[float]:
    vector = [0.0] * dimensions
    for word in text.lower().split():
        vector[zlib.crc32(word.encode()) % dimensions] += 1.0
    return vector
