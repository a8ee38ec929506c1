"""The signature is the schema: what fits it arrives with its types, the rest is refused by name."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from jobsworth import Job, handler
from tests.worker.job_api import registered
from worker.handler_modules import load
from worker.handlers import (
    BadPayload,
    Handler,
    HandlerError,
    arguments_of,
    shadowing_files,
)

Function = Callable[..., Any]


class Colour(Enum):
    RED = "red"


class Place(BaseModel):
    city: str
    zip_code: int = 0


@pytest.fixture(autouse=True)
def registry() -> Iterator[dict[str, Handler]]:
    with registered() as registry:
        yield registry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory, as a user starts a worker in; its modules are forgotten."""
    known, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", path)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def described(function: Function, mode: str = "work", **options: Any) -> Handler:
    """The function as a registered handler."""
    with registered() as registry:
        handler(mode, **options)(function)
        return registry[mode]


def refusal(function: Function, payload: dict[str, Any]) -> str:
    with pytest.raises(BadPayload) as refused:
        arguments_of(described(function), payload)
    return str(refused.value)


def greet(job: Job, name: str, times: int = 1) -> None: ...


# The payload.


def test_what_fits_becomes_arguments_and_defaults_are_left_to_the_function() -> None:
    assert arguments_of(described(greet), {"name": "Ada"}) == {"name": "Ada"}
    both = {"name": "Ada", "times": 2}
    assert arguments_of(described(greet), both) == both


def test_a_refusal_names_every_field_and_its_reason() -> None:
    assert refusal(greet, {"times": "many", "loud": True}) == (
        "the payload does not fit work(name, times): name: Field required; "
        "times: Input should be a valid integer, unable to parse string as an integer; "
        "loud: Extra inputs are not permitted"
    )


def test_a_refusal_does_not_repeat_the_values() -> None:
    assert "hunter2" not in refusal(greet, {"name": "Ada", "times": "hunter2"})


def test_a_refusal_names_the_place_within_a_document() -> None:
    def work(places: list[Place]) -> None: ...

    assert "places.1.city: Field required" in refusal(work, {"places": [{"city": "x"}, {}]})


def test_a_payload_for_a_function_without_arguments_is_refused() -> None:
    def work() -> None: ...

    assert arguments_of(described(work), {}) == {}
    assert "n: Extra inputs are not permitted" in refusal(work, {"n": 1})


def test_the_job_is_not_a_part_of_the_payload() -> None:
    assert "job: Extra inputs are not permitted" in refusal(greet, {"name": "Ada", "job": 1})


def test_further_keys_go_where_the_function_takes_them() -> None:
    def work(name: str, **rest: Any) -> None: ...

    given_ = {"name": "Ada", "loud": True, "job": "carpenter"}
    assert arguments_of(described(work), given_) == given_


@pytest.mark.parametrize(
    ("annotation", "given_", "argument"),
    [
        (UUID, str(UUID(int=7)), UUID(int=7)),
        (datetime, "2030-01-02T03:04:05Z", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (Colour, "red", Colour.RED),
        (Place, {"city": "Bonn", "zip_code": "53111"}, Place(city="Bonn", zip_code=53111)),
        (list[int], ["1", 2], [1, 2]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (set[str], ["a", "a"], {"a"}),
        (Path, "/tmp/x", Path("/tmp/x")),
        (Literal["a", "b"], "b", "b"),
        (int | None, None, None),
        (Any, {"any": ["thing"]}, {"any": ["thing"]}),
    ],
    ids=str,
)
def test_arguments_have_the_types_of_their_annotations(
    annotation: Any, given_: object, argument: object
) -> None:
    def work(value: Any) -> None: ...

    work.__annotations__ = {"value": annotation}
    [(name, value)] = arguments_of(described(work), {"value": given_}).items()
    assert (name, value) == ("value", argument)
    assert type(value) is type(argument)


def test_an_argument_without_annotation_takes_anything() -> None:
    work = eval("lambda value, other=3: None")
    assert arguments_of(described(work), {"value": [1]}) == {"value": [1]}


@pytest.mark.parametrize("name", ["copy", "json", "dict", "schema", "model_dump", "self_"])
def test_names_that_a_model_has_itself_can_be_arguments(name: str) -> None:
    work = eval(f"lambda {name}=1: None")
    assert arguments_of(described(work), {name: 2}) == {name: 2}


keys = st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=4)


@given(payload=keys)
def test_any_payload_is_taken_or_refused_with_a_message(payload: dict[str, Any]) -> None:
    work = described(greet)
    try:
        said = f"taken: {', '.join(arguments_of(work, payload))}"
    except BadPayload as refused:
        said = str(refused)
    assert said.startswith(("taken: name", "the payload does not fit work(name, times): "))


# The function.


def test_the_job_is_found_by_its_annotation_whatever_its_name() -> None:
    def work(me: Job, n: int) -> None: ...

    assert described(work).job_parameter == "me"
    assert arguments_of(described(work), {"n": 1}) == {"n": 1}


def test_the_job_is_found_by_its_name_without_annotation() -> None:
    work = eval("lambda job, n: None")
    assert described(work).job_parameter == "job"


def test_an_argument_named_job_of_another_type_belongs_to_the_payload() -> None:
    def work(job: str) -> None: ...

    assert described(work).job_parameter is None
    assert arguments_of(described(work), {"job": "carpenter"}) == {"job": "carpenter"}


def test_a_function_needs_no_job() -> None:
    def work(n: int) -> None: ...

    assert described(work).job_parameter is None


def test_async_plain_and_isolated_functions_are_told_apart() -> None:
    async def coroutine() -> None: ...
    def plain() -> None: ...

    assert described(coroutine).kind == "async"
    assert described(plain).kind == "thread"
    assert described(plain, isolate="process", memory_mb=64).kind == "process"
    assert described(functools.partial(coroutine)).kind == "async"


def test_options_are_kept() -> None:
    def work() -> None: ...

    options: dict[str, Any] = {"queue": "slow", "timeout_seconds": 3.5, "failures_max": 2}
    kept = described(work, **options)
    assert {name: getattr(kept, name) for name in options} == options
    assert described(work).queue == "default"


def test_a_partial_has_the_arguments_that_are_left() -> None:
    def work(job: Job, first: int, second: int, third: int = 3) -> None: ...

    left = described(functools.partial(work, first=1))
    assert left.job_parameter == "job"
    assert arguments_of(left, {"second": "2"}) == {"second": 2}


def test_a_method_of_an_object_is_a_handler_without_its_self() -> None:
    class Office:
        async def work(self, job: Job, n: int) -> int:
            return n

    bound = described(Office().work)
    assert (bound.kind, bound.job_parameter) == ("async", "job")
    assert arguments_of(bound, {"n": "5"}) == {"n": 5}


def test_a_decorated_function_has_the_signature_of_the_one_inside() -> None:
    def noisy(function: Function) -> Function:
        @functools.wraps(function)
        async def inner(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return inner

    @noisy
    async def work(job: Job, n: int) -> int:
        return n

    decorated = described(work)
    assert (decorated.kind, decorated.job_parameter) == ("async", "job")
    assert arguments_of(decorated, {"n": "5"}) == {"n": 5}


def test_the_decorator_returns_the_function_itself() -> None:
    def work() -> int:
        return 5

    assert handler("work")(work) is work


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (eval("lambda n, /: n"), {}, "takes 'n' by position only"),
        (eval("lambda _n: n"), {}, "the handler of 'work' has an argument '_n'"),
        (greet, {"memory_mb": 64}, "has memory_mb without a process of its own"),
        (greet, {"timeout_seconds": 0}, "timeout_seconds=0"),
        (greet, {"timeout_seconds": -1}, "timeout_seconds=-1"),
        (greet, {"failures_max": 0}, "failures_max=0"),
    ],
)
def test_a_function_that_cannot_be_a_handler_is_refused(
    function: Function, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(HandlerError, match=message) as refused:
        described(function, **options)
    assert refused.value.remedy


def test_an_isolated_handler_cannot_be_async() -> None:
    async def work() -> None: ...

    with pytest.raises(HandlerError, match="is async and isolated"):
        described(work, isolate="process")


def test_a_mode_needs_a_name() -> None:
    with pytest.raises(HandlerError, match="has no mode"):
        described(greet, mode="")


# Modes.


def test_a_mode_with_two_handlers_is_refused_naming_both(registry: dict[str, Handler]) -> None:
    def first() -> None: ...
    def second() -> None: ...

    handler("work")(first)
    with pytest.raises(HandlerError, match="two handlers") as refused:
        handler("work")(second)
    assert "first" in refused.value.message
    assert "second" in refused.value.message
    assert registry["work"].function is first


def test_the_same_function_registered_again_is_no_second_handler(
    registry: dict[str, Handler],
) -> None:
    """A module that is imported again, under `__main__` or by a reload."""
    handler("work")(greet)
    handler("work", queue="slow")(greet)
    assert registry["work"].queue == "slow"


def test_one_function_can_serve_several_modes(registry: dict[str, Handler]) -> None:
    handler("one")(handler("two")(greet))
    assert sorted(registry) == ["one", "two"]


def test_a_shipped_mode_can_be_replaced_and_its_replacement_cannot(
    registry: dict[str, Handler],
) -> None:
    def shipped() -> None: ...
    def own() -> None: ...
    def another() -> None: ...

    handler("answer", shipped=True)(shipped)
    handler("answer")(own)
    assert registry["answer"].function is own
    with pytest.raises(HandlerError, match="two handlers"):
        handler("answer")(another)


# Modules.


GOOD = "from jobsworth import handler\n@handler('good')\ndef good(n: int) -> int:\n    return n\n"


def test_a_module_in_the_current_directory_is_found(
    folder: Path, registry: dict[str, Handler]
) -> None:
    (folder / "goodjobs.py").write_text("from __future__ import annotations\n" + GOOD)
    load(["goodjobs"])
    assert arguments_of(registry["good"], {"n": "5"}) == {"n": 5}


def test_a_module_in_a_package_is_found(folder: Path, registry: dict[str, Handler]) -> None:
    (folder / "goodapp").mkdir()
    (folder / "goodapp" / "jobs.py").write_text(GOOD)
    load(["goodapp.jobs"])
    assert "good" in registry


def test_the_current_directory_shadows_nothing(folder: Path) -> None:
    (folder / "json.py").write_text("raise AssertionError")
    load([])
    assert sys.path[-1] == str(folder)
    load([])
    assert sys.path.count(str(folder)) == 1


@pytest.mark.parametrize(
    ("source", "name", "message", "remedy"),
    [
        (None, "nosuchjobs", "there is no module 'nosuchjobs'", "start the worker in the folder"),
        (None, "nosuchapp.jobs", "there is no module 'nosuchapp'", "start the worker in"),
        ("import nosuchdependency", "badjobs", "it needs 'nosuchdependency'", "install"),
        ("1 / 0", "badjobs", "ZeroDivisionError: division by zero", "python -c 'import badjobs'"),
        ("def (:", "badjobs", "SyntaxError: invalid syntax", "python -c"),
        ("import sys; sys.exit(0)", "badjobs", "SystemExit: 0", "python -c"),
        (
            "from jobsworth import handler\n@handler('x')\ndef x(n, /): ...",
            "badjobs",
            "the handler of 'x' takes 'n' by position only",
            "remove the /",
        ),
        (
            "from jobsworth import handler\n@handler('x')\ndef x(n: Nowhere): ...",
            "badjobs",
            "'Nowhere' is not defined",
            "python -c",
        ),
    ],
)
def test_a_module_that_cannot_be_used_is_refused_with_the_reason_and_the_remedy(
    folder: Path, source: str | None, name: str, message: str, remedy: str
) -> None:
    if source is not None:
        (folder / f"{name}.py").write_text(source)
    with pytest.raises(HandlerError) as refused:
        load([name])
    assert message in refused.value.message
    assert remedy in refused.value.remedy


@pytest.mark.parametrize("name", ["worker", "db", "worker.jobs", "migrations"])
def test_a_package_of_our_own_is_not_a_module_of_handlers(folder: Path, name: str) -> None:
    with pytest.raises(HandlerError, match="a package of Jobsworth itself") as refused:
        load([name])
    assert refused.value.remedy == "name your own module, like myapp.jobs"


@pytest.mark.parametrize("file", ["worker.py", "db.py", "worker/__init__.py"])
def test_a_users_own_file_with_our_name_is_named_to_be_renamed(folder: Path, file: str) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(GOOD)
    assert shadowing_files(folder) == [folder / file]
    with pytest.raises(HandlerError) as refused:
        load([file.partition("/")[0].removesuffix(".py")])
    assert refused.value.remedy == f"rename {folder / file}"


def test_our_own_directory_shadows_nothing() -> None:
    assert shadowing_files(Path(__file__).parents[2]) == []
