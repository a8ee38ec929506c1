"""Files in a request are estimated by their kind, never as the text of their base64."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest
from pydantic_ai import (
    Agent,
    AudioUrl,
    BinaryContent,
    DocumentUrl,
    ImageUrl,
    ModelRequest,
    ModelResponse,
    VideoUrl,
)
from pydantic_ai.messages import (
    FilePart,
    ModelMessage,
    TextPart,
    ToolReturnPart,
    UploadedFile,
    UserPromptPart,
)
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import RequestUsage

from db.money import budgets
from db.money.calls import UsageSource
from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.providers.openai_stub import OpenAIStub
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of, model_at
from worker.llm import media
from worker.llm.usage import Told, upper_estimate, usage_of

NOISE = os.urandom(300_000)


def openai(name: str = "gpt-5", url: str = "https://api.openai.com/v1") -> Model:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=url, api_key="k"))


def anthropic() -> Model:
    return AnthropicModel("claude-sonnet-5-5", provider=AnthropicProvider(api_key="k"))


def asking(*content: Any) -> list[ModelMessage]:
    return [ModelRequest([UserPromptPart(content)])]


def taken(model: Model, *content: Any) -> int:
    """What these files add to an estimate, without the few bytes that name them."""
    return upper_estimate(asking(*content), b"", 1, model).input_tokens


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + NOISE


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + NOISE


def jpeg(width: int, height: int) -> bytes:
    app = b"\xff\xe0" + struct.pack(">H", 16) + bytes(14)
    frame = b"\xff\xc0" + struct.pack(">HBHH", 17, 8, height, width)
    return b"\xff\xd8" + app + frame + NOISE


def webp(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF____WEBPVP8X" + bytes(8) + size + NOISE


def wave(seconds: int) -> bytes:
    head = b"RIFF____WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    return head + bytes(32_000 * seconds)


@pytest.mark.parametrize("model", [openai(), openai("qwen", "http://127.0.0.1/v1"), anthropic()])
@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        ("image/png", NOISE),
        ("audio/wav", wave(20)),
        ("audio/mpeg", NOISE),
        ("video/mp4", NOISE),
        ("application/pdf", b"%PDF-1.7 /Type /Page " + NOISE),
    ],
)
def test_no_file_counts_as_the_text_of_its_base64(
    model: Model, media_type: str, data: bytes
) -> None:
    file = BinaryContent(data, media_type=media_type)
    by_kind = taken(model, "look", file)
    assert by_kind < 22_000 < len(file.base64) / 10
    result = ToolReturnPart("look", {"found": [file]}, "id")
    assert (
        taken(model, "look") < upper_estimate([ModelRequest([result])], b"", 1, model)[0] < 22_000
    )
    drawn: list[ModelMessage] = [ModelResponse([FilePart(file)])]
    assert upper_estimate(drawn, b"", 1, model).input_tokens < 22_000


@pytest.mark.parametrize("drawn", [png, gif, jpeg, webp])
def test_an_image_counts_by_its_pixels_and_at_most_what_the_provider_takes(drawn: Any) -> None:
    kind = f"image/{drawn.__name__}"
    small = BinaryContent(drawn(750, 100), media_type=kind)
    large = BinaryContent(drawn(8_000, 6_000), media_type=kind)
    assert media.tokens_of(small, anthropic()) == 101
    assert media.tokens_of(large, anthropic()) == media.IMAGE_TOKENS_ANTHROPIC
    assert media.tokens_of(small, openai()) == media.IMAGE_TOKENS_TILES
    assert media.tokens_of(large, openai()) == media.IMAGE_TOKENS_OPENAI
    assert media.tokens_of(large, openai("x", "http://127.0.0.1/v1")) == media.IMAGE_TOKENS_MAX
    assert media.tokens_of(small, openai("gpt-4o-mini")) == media.IMAGE_TOKENS_4O_MINI
    whole = BinaryContent(NOISE, media_type=kind, vendor_metadata={"detail": "original"})
    assert media.tokens_of(whole, openai()) == media.IMAGE_TOKENS_ORIGINAL


@pytest.mark.parametrize("cut", range(0, 40, 3))
@pytest.mark.parametrize("drawn", [png, gif, jpeg, webp])
def test_an_image_that_ends_early_or_lies_is_estimated_too(drawn: Any, cut: int) -> None:
    for data in (drawn(10, 10)[:cut], drawn(10, 10)[:cut] + b"\xff" * 60):
        image = BinaryContent(data, media_type="image/png")
        assert 0 < media.tokens_of(image, openai()) <= media.IMAGE_TOKENS_OPENAI


def test_a_recording_counts_by_its_seconds_and_a_document_by_its_pages() -> None:
    def of(media_type: str, data: bytes) -> int:
        return media.tokens_of(BinaryContent(data, media_type=media_type), openai())

    assert of("audio/wav", wave(60)) - 60 * 32 in range(media.MEDIUM_TOKENS_MIN + 3)
    page = media.PAGE_TOKENS + media.IMAGE_TOKENS_OPENAI
    assert of("application/pdf", b"%PDF-1.4 /Type/Pages /Count 7 /Type /Page") == 7 * page
    assert of("application/pdf", b"%PDF-1.4 /Type /Page /Type/Page/") == 2 * page
    assert of("application/pdf", b"%PDF-1.7" + bytes(100_000)) == 51 * page
    assert of("application/json", b"{}" * 500) == 1_000
    assert of("text/csv; charset=utf-8", b"1,2\n" * 500) == 2_000
    assert of("image/svg+xml", b"<svg/>") == 6


@pytest.mark.parametrize(
    "file",
    [
        ImageUrl("https://example.org/a.png"),
        AudioUrl("https://example.org/a.mp3"),
        VideoUrl("https://example.org/a.mp4"),
        DocumentUrl("https://example.org/a.pdf"),
        UploadedFile("file-1", provider_name="openai"),
    ],
)
def test_a_file_at_an_address_counts_as_a_large_one_and_more_is_believed(file: Any) -> None:
    estimate = upper_estimate(asking("look", file), b"", 100, openai())
    assert 5_000 < estimate.input_tokens < 20_000
    answer = ModelResponse(
        [TextPart("x")], usage=RequestUsage(input_tokens=90_000, output_tokens=5)
    )
    usage = usage_of(answer, estimate, Told())
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (90_000, 5)
    assert usage.source is UsageSource.PROVIDER


def test_what_a_providers_own_tools_find_is_believed() -> None:
    answer = ModelResponse([TextPart("x")], usage=RequestUsage(input_tokens=9_000, output_tokens=5))
    told: list[dict[str, Any]] = [
        {"native_tools": True},
        {"settings": {"openai_conversation_id": "c"}},
    ]
    for known in told:
        estimate = upper_estimate(asking("look"), b"", 100, openai(), **known)
        usage = usage_of(answer, estimate, Told())
        assert usage is not None
        assert (usage.output_tokens, usage.source) == (5, UsageSource.PROVIDER)
    usage = usage_of(answer, upper_estimate(asking("look"), b"", 100, openai()), Told())
    assert usage is not None
    assert (usage.output_tokens, usage.source) == (100, UsageSource.ESTIMATED)


async def test_a_job_with_an_image_fits_into_a_budget_of_its_size(
    api: JobApi, provider: OpenAIStub
) -> None:
    async with api.database.connection() as connection:
        await budgets.set_budget(connection, "daily", 30_000, unit="tokens", period="day")
    agent = Agent(model_at(provider))

    @handler("work")
    async def work(job: Job) -> str:
        picture = BinaryContent(NOISE, media_type="image/png")
        return await job.agent("draft", agent, ["what is this?", picture])

    job = await api.run("work")
    assert job.status is JobStatus.DONE, job.error
    [call] = await calls_of(api, job.id)
    [charge] = provider.bill
    assert call.estimated_input_tokens < 20_000
    assert (call.input_tokens, call.usage_source) == (charge.input_tokens, UsageSource.PROVIDER)
