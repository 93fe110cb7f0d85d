"""Workers begin with completions that have ended while others are drawn, and nothing but the time shows it."""

import pytest
from test_rollouts import train, vowels

from aapo.backends.trl import rollouts
from aapo.engines.decoding import Decoder
from aapo.errors import AapoError
from aapo.grading import answers, reward_function
from aapo.runs import RunDirectory

DRAWN, ASKED = "a token is drawn", "a user's function is asked"
ACCURACY = reward_function("accuracy", {"grader": "open_r1"})  # which asks workers about every completion


class Item:
    """A comparison that a worker would take its time for; the texts that were begun are events."""

    events: list

    def __init__(self, function, gold, text, bare_gold):
        self.text = text
        self.events.append(text)

    def result(self):
        return ("correct" if "a" in self.text else "wrong"), None


def checked(completions, **columns):
    """A user's function."""
    Item.events.append(ASKED)
    return vowels(completions)


@pytest.fixture
def events(monkeypatch):
    """What happened, in its order."""
    Item.events = []
    draw = Decoder._draw
    monkeypatch.setattr(Decoder, "_draw", lambda *args: Item.events.append(DRAWN) or draw(*args))
    monkeypatch.setattr(answers, "Item", Item)
    answers.forget_verdicts()
    yield Item.events
    answers.forget_verdicts()


def run(folder, path, data, **changes):
    settings = {"algorithm": "grpo", "judge_threshold": None, "max_steps": 1, "reward_funcs": [ACCURACY, checked]}
    train(folder, path, data, **{**settings, **changes})
    return list(RunDirectory(path).rollouts(1))


@pytest.mark.parametrize("opening", ["", "<think>"])
def test_workers_begin_before_the_last_completion_has_ended(tiny_folder, tmp_path, addition, events, opening):
    if opening:
        addition = addition.map(lambda row: {"prompt": [*row["prompt"], {"role": "assistant", "content": opening}]})
    rows = run(tiny_folder, tmp_path, addition)
    begun = [event for event in events if event not in (DRAWN, ASKED)]
    last_drawn = len(events) - 1 - events[::-1].index(DRAWN)
    assert sum(events.index(text) < last_drawn for text in begun) > 0
    # Each is what is asked for later: otherwise it would be begun again, after the last one has ended.
    assert sorted(begun) == sorted({row["completion"] and opening + row["completion"] for row in rows})
    assert events.index(ASKED) > last_drawn
    assert all(events.index(text) < events.index(ASKED) for text in begun)


def test_rollouts_are_those_of_grading_afterwards(tiny_folder, tmp_path, addition, events, monkeypatch):
    ahead = run(tiny_folder, tmp_path / "ahead", addition)
    answers.forget_verdicts()
    events.clear()
    monkeypatch.setattr(rollouts, "grade_ahead", lambda *args: None)
    assert run(tiny_folder, tmp_path / "after", addition) == ahead
    assert {row["verdict/accuracy"] for row in ahead} == {"correct", "wrong"}
    assert not any(event not in (DRAWN, ASKED) for event in events[: events.index(DRAWN) + events.count(DRAWN)])


def test_workers_that_cannot_be_started_are_told_of_where_completions_are_graded(
    tiny_folder, tmp_path, addition, events, monkeypatch
):
    def failing(*args):
        events.append("refused")
        raise AapoError("the grading workers cannot be started")

    monkeypatch.setattr(answers, "Item", failing)
    with pytest.raises(AapoError, match="^the grading workers cannot be started$"):
        run(tiny_folder, tmp_path, addition)
    assert events.index("refused") < len(events) - 1 - events[::-1].index(DRAWN) < len(events) - 1
    assert events[-1] == "refused"


def test_a_live_reference_is_graded_ahead_of_its_own_golds(tiny_folder, tmp_path, addition, events):
    run(tiny_folder, tmp_path, addition, algorithm="aapo", reference="live", max_steps=2)
    begun = [event for event in events if event not in (DRAWN, ASKED)]
    # Begun with the gold of another row, a completion would be begun again with its own.
    assert len(begun) == len(set(begun)) and events.count(ASKED) == 4


def test_another_thread_may_decide_what_is_looked_at_for_a_retry():
    class Decided:
        looked = 0

        def result(self):
            self.looked += 1
            if self.looked == 1:
                pending.verdict()  # as another thread would meanwhile

    pending = answers._Pending(Decided(), "x", "expression")
    pending.early = True
    pending.retry_if_early()
    assert pending.verdict().outcome == "timeout"
