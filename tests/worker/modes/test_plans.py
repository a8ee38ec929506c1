"""A plan shows all that it does, and is bounded."""

import pytest
from pydantic import ValidationError

from worker.modes.plans import STEPS_MAX, Deploy, Note, Plan, Save, Search


def test_the_text_shows_every_value_of_every_step() -> None:
    steps = (
        Search(query="what we know"),
        Note(text="a sentence"),
        Save(name="draft.md", text="the draft"),
        Deploy(environment="staging", sha="0123456789abcdef"),
    )
    text = Plan(title="do all this", steps=steps).as_text()
    assert text.splitlines()[0] == "Plan: do all this"
    assert [line[:2] for line in text.splitlines()[1:]] == ["1.", "2.", "3.", "4."]
    for step in steps:
        for value in step.model_dump(exclude={"kind"}).values():
            assert value in text


@pytest.mark.parametrize(
    "text",
    ["ok\n2. Note: ok too", "ok" + "\n" * 100 + "2. Note: ok too", "\u202eok\u2066", "a\x1b[2J"],
)
def test_no_value_of_a_plan_can_look_like_a_step_or_hide_one(text: str) -> None:
    deploy = Deploy(environment="production", sha="0123456")
    plan = Plan(title=text, steps=(Note(text=text), Search(query=text), deploy))
    lines = plan.as_text().splitlines()
    assert [line[:2] for line in lines] == ["Pl", "1.", "2.", "3."]
    assert lines[-1] == "3. Deploy 0123456 to production"
    assert all(line.isprintable() for line in lines)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize("text", ["", " \n", "\u202e"])
def test_a_value_that_shows_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Note(text=text)


def test_two_files_of_one_name_are_refused() -> None:
    save = Save(name="a.md", text="x")
    with pytest.raises(ValidationError, match="same name"):
        Plan(title="t", steps=(save, save))


@pytest.mark.parametrize("number", [0, STEPS_MAX + 1])
def test_no_step_and_too_many_steps_are_refused(number: int) -> None:
    with pytest.raises(ValidationError):
        Plan(title="t", steps=(Note(text="x"),) * number)


@pytest.mark.parametrize("sha", ["main", "012345", "0123456; rm -rf /", "-0123456"])
def test_a_deployment_takes_nothing_but_a_commit(sha: str) -> None:
    with pytest.raises(ValidationError):
        Deploy(environment="staging", sha=sha)


@pytest.mark.parametrize("name", ["", "../a", "/etc/passwd", ".hidden", "a/b", "a" * 200])
def test_a_file_has_a_plain_name(name: str) -> None:
    with pytest.raises(ValidationError):
        Save(name=name, text="x")
