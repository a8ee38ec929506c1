"""Files in a request: how many tokens an image, a recording, a document or an address may take.

In: the messages of a request, and who will read them. Out: the files, and for each the most tokens
that its kind can take. Invariant: a file is never counted as the text of its base64.

Providers do not count files by their bytes:

- Images, by pixels. OpenAI: at most 2,500 patches of 32 pixels square times 2.46 (10,000 with
  `detail="original"`), or 85 and 170 for each of at most 8 tiles of 512; gpt-4o-mini 2,833 and
  5,667 (developers.openai.com/api/docs/guides/images-vision). Anthropic: width * height / 750, at
  most 4,784 (platform.claude.com/docs/en/build-with-claude/vision). Gemini: 258 for each tile
  (ai.google.dev/gemini-api/docs/tokens). Qwen, on servers of one's own: one for each 28 pixels
  square, at most 16,384 (huggingface.co/Qwen/Qwen2-VL-7B-Instruct).
- Recordings, by seconds: Gemini 32, OpenAI 10. A film takes about 300 a second on Gemini. How long
  they are is at most the bytes divided by the least that a codec needs for a second.
- Documents, by pages: Anthropic up to 3,000 for a page's text and its image besides
  (platform.claude.com/docs/en/build-with-claude/pdf-support), the others less. Text files are put
  into the prompt as they are: no token is less than a byte.

Where a provider fetches the file itself its size is not known, and the count is a likely one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic_ai.messages import (
    BinaryContent,
    FileUrl,
    ImageUrl,
    ModelMessage,
    UploadedFile,
)
from pydantic_ai.models import Model

# For a file that the provider fetches itself: its size is not known here.
FILE_URL_TOKENS = 16_384
# The most that one image takes, by provider; elsewhere as much as Qwen's vision models take.
IMAGE_TOKENS_MAX = 16_384
IMAGE_TOKENS_OPENAI = 6_150
IMAGE_TOKENS_ORIGINAL = 24_600
IMAGE_TOKENS_4O_MINI = 48_169
IMAGE_TOKENS_ANTHROPIC = 4_784
# Eight tiles: models that count tiles scale small images up.
IMAGE_TOKENS_TILES = 1_445
PATCH_PIXELS = 28
PATCH_TOKENS = 2.46
PIXELS_PER_TOKEN_ANTHROPIC = 750

AUDIO_TOKENS_PER_SECOND = 32
# Opus at 6 kbit/s; speech codecs and MP3 take 8 and more. Samples of telephones take 8,000 bytes.
AUDIO_BYTES_PER_SECOND = 750
WAVE_BYTES_PER_SECOND = 8_000
VIDEO_TOKENS_PER_SECOND = 300
VIDEO_BYTES_PER_SECOND = 8_000
MEDIUM_TOKENS_MIN = 1_000

PAGE_TOKENS = 3_000
# What providers accept in one request.
PAGES_MAX = 600
# A document that hides its pages in compressed objects takes at least this much for one.
PAGE_BYTES_MIN = 2_000

File = BinaryContent | FileUrl | UploadedFile
_DEPTH_MAX = 20
# Kinds of text besides `text/*`, an SVG image among them.
_TEXTS = ("json", "xml", "yaml", "toml")
_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
_PAGES = re.compile(rb"/Count\s+(\d{1,6})")


def files_of(messages: Sequence[ModelMessage]) -> Iterator[File]:
    """The files in these messages, those within results of tools and answers included."""
    for message in messages:
        for part in message.parts:
            yield from _within(getattr(part, "content", None))


def kinds_of(files: Iterable[File]) -> frozenset[str] | None:
    """The kinds of tokens besides text that these files take; None: perhaps anything."""
    found: set[str] = set()
    for file in files:
        if isinstance(file, UploadedFile):
            return None
        try:
            kind = file.media_type.partition("/")[0].lower()
        except ValueError:  # an address that does not say
            return None
        # The pages of a document are read as images as well.
        found.add(kind if kind in ("image", "audio", "video") else "image")
    return frozenset(found)


def base64_bytes(file: File) -> int:
    """The bytes that a file takes in the JSON of its message; of an address none are counted."""
    return 4 * ceil(len(file.data) / 3) if isinstance(file, BinaryContent) else 0


def tokens_of(file: File, model: Model) -> int:
    """The most tokens that this file can take, as far as its size is known."""
    if isinstance(file, ImageUrl):
        return _image_tokens_max(file.vendor_metadata, model)
    if not isinstance(file, BinaryContent):
        return FILE_URL_TOKENS
    size, media_type = len(file.data), file.media_type.partition(";")[0].strip().lower()
    if media_type.endswith(_TEXTS):
        return size
    match media_type.partition("/")[0]:
        case "image":
            return _image_tokens(file, model)
        case "audio":
            seconds = size / _audio_rate(file.data)
            return MEDIUM_TOKENS_MIN + ceil(seconds * AUDIO_TOKENS_PER_SECOND)
        case "video":
            seconds = size / VIDEO_BYTES_PER_SECOND
            return MEDIUM_TOKENS_MIN + ceil(seconds * VIDEO_TOKENS_PER_SECOND)
        case "text":
            return size
        case _:
            return _document_tokens(file, model)


def _within(content: object, depth: int = 0) -> Iterator[File]:
    if isinstance(content, BinaryContent | FileUrl | UploadedFile):
        yield content
    elif depth > _DEPTH_MAX or isinstance(content, str | bytes):
        return
    elif isinstance(content, Mapping):
        for item in cast(Mapping[Any, object], content).values():
            yield from _within(item, depth + 1)
    elif isinstance(content, list | tuple):
        for item in cast(Iterable[object], content):
            yield from _within(item, depth + 1)


# Images.


def _image_tokens(image: BinaryContent, model: Model) -> int:
    most = _image_tokens_max(image.vendor_metadata, model)
    size = _pixels(image.data)
    if size is None or most == IMAGE_TOKENS_4O_MINI:
        return most
    width, height = size
    if model.system == "anthropic":
        return min(most, ceil(width * height / PIXELS_PER_TOKEN_ANTHROPIC) + 1)
    patches = ceil(width / PATCH_PIXELS) * ceil(height / PATCH_PIXELS)
    return min(most, max(IMAGE_TOKENS_TILES, ceil(patches * PATCH_TOKENS)))


def _image_tokens_max(metadata: Mapping[str, Any] | None, model: Model) -> int:
    if model.system == "anthropic":
        return IMAGE_TOKENS_ANTHROPIC
    if model.model_name.startswith("gpt-4o-mini"):
        return IMAGE_TOKENS_4O_MINI
    if (metadata or {}).get("detail") == "original":
        return IMAGE_TOKENS_ORIGINAL
    return IMAGE_TOKENS_OPENAI if _is_openais(model) else IMAGE_TOKENS_MAX


def _is_openais(model: Model) -> bool:
    """True if OpenAI itself reads the image; many servers speak its protocol."""
    try:
        host = urlsplit(model.base_url or "").hostname or ""
    except ValueError:
        return False
    return host.endswith(("openai.com", "openai.azure.com"))


def _pixels(data: bytes) -> tuple[int, int] | None:
    """Width and height as the file states them; None for a format that is not read here.

    PNG (RFC 2083, section 3.2), GIF89a, JPEG (ITU-T T.81, B.2.2) and WebP (RFC 9649).
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return _number(data[16:20]), _number(data[20:24])
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        return _little(data[6:8]), _little(data[8:10])
    if data[:2] == b"\xff\xd8":
        return _jpeg_pixels(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp_pixels(data)
    return None


def _jpeg_pixels(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _number(data[at + 7 : at + 9]), _number(data[at + 5 : at + 7])
        else:
            at += 2 + _number(data[at + 2 : at + 4])
    return None


def _webp_pixels(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8X":
            return 1 + _little(data[24:27]), 1 + _little(data[27:30])
        case b"VP8 ":
            return _little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF
        case b"VP8L":
            packed = _little(data[21:25])
            return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
        case _:
            return None


def _number(piece: bytes) -> int:
    return int.from_bytes(piece)


def _little(piece: bytes) -> int:
    return int.from_bytes(piece, "little")


# Recordings and documents.


def _audio_rate(data: bytes) -> int:
    """The least bytes that a second of this recording takes.

    A WAVE file states it at offset 28, if its first chunk is its format.
    """
    if data[:4] == b"RIFF" and data[8:16] == b"WAVEfmt " and len(data) >= 32:
        return max(_little(data[28:32]), AUDIO_BYTES_PER_SECOND)
    if data[:4] == b"RIFF":
        return WAVE_BYTES_PER_SECOND
    return AUDIO_BYTES_PER_SECOND


def _document_tokens(file: BinaryContent, model: Model) -> int:
    if file.data[:5] != b"%PDF-":
        # Few providers read other formats, and those that do read pages of them.
        return min(base64_bytes(file), PAGES_MAX * PAGE_TOKENS)
    a_page = PAGE_TOKENS + _image_tokens_max(None, model)
    return _pages(file.data) * a_page


def _pages(data: bytes) -> int:
    """How many pages a PDF has at most (ISO 32000-1, 7.7.3)."""
    stated = (int(count) for count in _PAGES.findall(data))
    pages = max(stated, default=0) or len(_PAGE.findall(data))
    return min(pages or ceil(len(data) / PAGE_BYTES_MIN), PAGES_MAX)
