"""Tests of handlers.py with the test kit: `pytest examples` runs them. See docs/testing.md."""

from handlers import pick_sentences

from jobsworth.testing import Jobs

TEXT = "Tea is a drink. It is hot. It is good."


def test_counts_words(jobs: Jobs) -> None:
    assert jobs.run("word_count", {"text": "one two three"}).result == 3


def test_picks_sentences() -> None:
    assert pick_sentences(TEXT, 1) == "Tea is a drink."


def test_publishes_after_a_yes(jobs: Jobs) -> None:
    job = jobs.run("summarise", {"text": TEXT, "publish": True})
    assert job.waiting_for == "approval"
    jobs.approve("Publish this summary?")
    [job] = jobs.drain()
    assert job.result == "Tea is a drink. It is hot."


def test_says_what_cannot_be_done(jobs: Jobs) -> None:
    nothing = jobs.run("summarise", {"text": " "})
    assert (nothing.status, nothing.failures) == ("failed", 1)
    wrong = jobs.run("summarise", {"text": TEXT, "sentences": "many"})
    assert wrong.error is not None
    assert "sentences" in wrong.error


def test_isolates_what_may_not_end(jobs: Jobs) -> None:
    # A busy machine may take longer to start a process than the handler allows.
    job = jobs.run("longest_match", {"pattern": "a+", "text": "aaba"}, timeout_seconds=60)
    assert job.result == "aa"


def test_a_kill_after_the_step_repeats_nothing(jobs: Jobs) -> None:
    job_id = jobs.enqueue("summarise", {"text": TEXT, "sentences": 1})
    jobs.crash("step.committed")
    [job] = jobs.drain()
    assert (job.id, job.attempt, job.result) == (job_id, 2, "Tea is a drink.")
