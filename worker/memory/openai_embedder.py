"""Vectors from any OpenAI-compatible endpoint.

A module of its own, imported when a URL is set: httpx takes 9 MB of a worker's memory.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, cast

import anyio
import httpx

from db.memory.spaces import SpaceKey
from worker.masking import mask
from worker.memory.embedders import (
    CHUNK_CHARACTERS,
    ENDPOINT,
    TIMEOUT_SECONDS,
    Account,
    Booking,
    EmbedderBusy,
    EmbedderError,
    EmbedderRefused,
    space_key,
)
from worker.money.calls import REQUEST_ID_HEADER
from worker.retry_after import retry_after_seconds

RETRY_AFTER_SECONDS_MAX = 3_600.0
# What a stored vector holds: https://en.wikipedia.org/wiki/Half-precision_floating-point_format
HALF_PRECISION_MAX = 65_504
ERROR_CHARACTERS_MAX = 300

# The answers of an endpoint that refuses the texts themselves (too long, empty, not allowed). For
# other 4xx (no key, no such model or page) it would not help to send fewer texts.
TEXT_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)

# Timeouts of the provider's own or of a proxy: neither says that nothing was computed.
TIMEOUTS = (HTTPStatus.REQUEST_TIMEOUT, 499)
# "Too many requests" and "overloaded", as Anthropic's and others' servers say it.
RATE_LIMITED = (HTTPStatus.TOO_MANY_REQUESTS, 529)


class OpenAIEmbedder:
    """`POST {url}/embeddings` of an OpenAI-compatible endpoint (`https://…/v1`)."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        dimensions: int,
        batch_max: int = 64,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._url = httpx.URL(_embeddings_url(url))
        self._model = model
        self._dimensions = dimensions
        self._batch_max = batch_max
        self._timeout_seconds = timeout_seconds
        # Most endpoints ignore `dimensions`, some need it, some refuse it: those get it only once.
        self._names_dimensions = True
        self._client = httpx.AsyncClient(
            timeout=timeout_seconds, headers={"Authorization": f"Bearer {key}"} if key else None
        )

    @property
    def model(self) -> str:
        return self._model

    @property
    def dimensions(self) -> int:
        return self._dimensions

    @property
    def chunk_characters(self) -> int:
        return CHUNK_CHARACTERS

    @property
    def space(self) -> SpaceKey:
        return space_key(ENDPOINT, self)

    @property
    def lexical(self) -> bool:
        return False

    @property
    def description(self) -> str:
        return f"{self._model} at {self._where}"

    @property
    def paid(self) -> bool:
        return True

    async def embed(self, texts: Sequence[str], account: Account) -> list[list[float]]:
        vectors: list[list[float]] = []
        for start in range(0, len(texts), self._batch_max):
            vectors += await self._batch(texts[start : start + self._batch_max], account)
        return vectors

    async def close(self) -> None:
        await self._client.aclose()

    async def _batch(self, texts: Sequence[str], account: Account) -> list[list[float]]:
        booking = await account.begin(texts)
        response = await self._sent(texts, booking)
        if self._names_dimensions and _refuses_dimensions(response):
            await booking.refused(_error_text(response))
            self._names_dimensions = False
            booking = await account.begin(texts)
            response = await self._sent(texts, booking)
        await self._check_status(response, booking)
        tokens: int | None = None
        try:
            body = self._read(response)
            tokens = _tokens(body)
            vectors = self._vectors(body, len(texts))
        except EmbedderError as error:
            await booking.spoilt(tokens, error)
            raise
        await booking.answered(tokens, vectors)
        return vectors

    async def _sent(self, texts: Sequence[str], booking: Booking) -> httpx.Response:
        """The response; a request without one is settled."""
        try:
            return await self._post(texts, booking.request_id)
        except _Unsent as error:
            await booking.unsent(error)
            raise EmbedderError(str(error)) from error
        except BaseException as error:
            await booking.lost(error)
            raise

    async def _post(self, texts: Sequence[str], request_id: str) -> httpx.Response:
        request: dict[str, Any] = {
            "model": self._model,
            "input": list(texts),
            "encoding_format": "float",
        }
        if self._names_dimensions:
            request["dimensions"] = self._dimensions
        try:
            # httpx bounds each read only: an endpoint that answers in drips would never end.
            with anyio.fail_after(self._timeout_seconds):
                return await self._client.post(
                    self._url, json=request, headers={REQUEST_ID_HEADER: request_id}
                )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            reason = str(error) or type(error).__name__
            raise _Unsent(f"{self._where} cannot be reached: {reason}") from error
        except (httpx.TimeoutException, TimeoutError) as error:
            raise EmbedderError(
                f"{self._where} did not answer within {self._timeout_seconds:g} s"
            ) from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise EmbedderError(f"{self._where} cannot be reached: {reason}") from error

    async def _check_status(self, response: httpx.Response, booking: Booking) -> None:
        if response.is_success:
            return
        status = response.status_code
        says = f"{self._where} answered {status}: {_error_text(response)}"
        after_seconds = retry_after_seconds(response.headers, RETRY_AFTER_SECONDS_MAX)
        if status in RATE_LIMITED:
            await booking.limited(says, after_seconds)
        elif response.is_server_error or status in TIMEOUTS:
            # It may have computed the answer, and bill it: as for a chat's call.
            await booking.lost(says)
        else:
            await booking.refused(says)
        if status == HTTPStatus.TOO_MANY_REQUESTS or after_seconds is not None:
            raise EmbedderBusy(says, after_seconds)
        if status in TEXT_REFUSALS:
            raise EmbedderRefused(says)
        raise EmbedderError(says)

    def _read(self, response: httpx.Response) -> object:
        try:
            return response.json()
        except ValueError as error:
            raise EmbedderError(f"{self._where} answered with invalid JSON") from error

    def _vectors(self, body: object, wanted: int) -> list[list[float]]:
        try:
            items = cast(Any, body)["data"]
            by_index = {
                int(index): list[Any](item["embedding"])
                for index, item in zip(_indexes(items), items, strict=True)
            }
        except (KeyError, TypeError, ValueError) as error:
            raise EmbedderError(f"{self._where} answered without a list of embeddings") from error
        if sorted(by_index) != list(range(wanted)) or len(items) != wanted:
            raise EmbedderError(
                f"{self._where} returned {len(items)} embeddings for {wanted} texts"
            )
        vectors = [by_index[index] for index in range(wanted)]
        wrong = [len(vector) for vector in vectors if len(vector) != self._dimensions]
        if wrong:
            # All of several: the setting. Some, or a text alone: it is found by asking for fewer.
            kind = EmbedderError if len(wrong) == wanted > 1 else EmbedderRefused
            raise kind(
                f"{self._where} returned vectors of {wrong[0]} numbers, not {self._dimensions}; "
                f"set JOBSWORTH_EMBEDDER_DIMENSIONS={wrong[0]} if that is this model's length"
            )
        return [self._checked(vector) for vector in vectors]

    def _checked(self, vector: list[Any]) -> list[float]:
        if not all(type(x) in (int, float) and abs(x) <= HALF_PRECISION_MAX for x in vector):
            # Of one text perhaps: it is found by asking again for fewer.
            raise EmbedderRefused(
                f"{self._where} returned a vector in which a value is not a finite number of half"
                f" precision (at most {HALF_PRECISION_MAX:,})"
            )
        return [float(x) for x in vector]

    @property
    def _where(self) -> str:
        return str(self._url.copy_with(userinfo=b"", query=None))


class _Unsent(Exception):
    """There was no connection."""


def _tokens(body: object) -> int | None:
    """How many tokens the endpoint counted; None if it does not say, or says something else."""
    try:
        tokens = cast(Any, body)["usage"]["prompt_tokens"]
    except (KeyError, TypeError, IndexError):
        return None
    return tokens if type(tokens) is int else None


def _embeddings_url(url: str) -> str:
    stem = url.rstrip("/")
    return stem if stem.endswith("/embeddings") else f"{stem}/embeddings"


def _refuses_dimensions(response: httpx.Response) -> bool:
    return response.status_code in TEXT_REFUSALS and "dimensions" in _error_text(response)


def _error_text(response: httpx.Response) -> str:
    try:
        body: Any = response.json()
        text = str(body["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = response.text or response.reason_phrase
    return mask(" ".join(text.split()))[:ERROR_CHARACTERS_MAX]


def _indexes(items: Sequence[Any]) -> list[Any]:
    """The index of each item. Some endpoints leave out a 0, and some leave out all: those answer in
    the order of the texts.
    """
    if not any("index" in item for item in items):
        return list(range(len(items)))
    return [item.get("index", 0) for item in items]
