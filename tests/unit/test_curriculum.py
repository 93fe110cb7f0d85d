"""Which prompts a batch has: weights, curriculum, state."""

from collections import Counter

import pytest
import torch

from aapo.errors import InputError
from aapo.learning.curriculum import PromptChoice, Record, known_records, strategy_weight, within
from aapo.recipe import resolve

KEYS = ["never", "half", "always", "new"]
KNOWN = [Record(0, 4), Record(2, 4), Record(4, 4), Record()]
GIVEN = {"model_name_or_path": "model", "dataset_name": "rows.jsonl", "num_eval_prompts": 0}


def recipe(**fields):
    return resolve("mine", {**GIVEN, **fields})


def choice(strategy: str = "uniform", **options) -> PromptChoice:
    return PromptChoice(KEYS, KNOWN, strategy=strategy, **options)


@pytest.mark.parametrize(
    ("strategy", "weights"),
    [
        ("uniform", [1, 1, 1, 1]),
        ("hard", [1, 0.75, 0, 1]),
        ("soft", [0, 0.75, 0, 1]),
        ("medium", [0, 1, 0, 1]),
    ],
)
def test_weights_of_the_strategies(strategy, weights):
    assert [strategy_weight(strategy, mean) for mean in (0.0, 0.25, 1.0, None)] == weights


def test_draws_follow_the_weights_and_have_no_prompt_twice():
    drawn: Counter[int] = Counter()
    hard = choice("hard")  # weights 1, 1/2, 0, 1
    for _ in range(4000):
        (first,) = hard.draw(1, 0.0)
        drawn[first] += 1
    assert drawn[2] == 0
    for place, share in ((0, 0.4), (1, 0.2), (3, 0.4)):  # binomial: 4 standard errors are 0.031
        assert drawn[place] / 4000 == pytest.approx(share, abs=0.032)
    assert sorted(choice("hard").draw(4, 0.0)) == [0, 1, 2, 3]


def test_prompts_without_a_weight_fill_a_batch_and_that_is_said_once(caplog):
    medium = choice("medium")
    for _ in range(3):
        places = medium.draw(3, 0.0)
        assert {1, 3} == set(places[:2]) and places[2] in (0, 2)
    assert [record.getMessage() for record in caplog.records] == [
        "only 2 of 4 prompts have a weight and a batch takes 3; the others fill it"
    ]


def test_the_running_mean_goes_on_from_the_banks():
    medium = choice("medium")
    assert [medium.mean(key) for key in KEYS] == [0.0, 0.5, 1.0, None]
    medium.observe(["never", "never", "new", "new", "new"], torch.tensor([1.0, 0.0, 0.0, torch.nan, 1.0]))
    assert medium.mean("never") == 1 / 6 and medium.mean("new") == 0.5
    metrics = medium.metrics(["never", "half", "half"])
    assert metrics["prompts/mean_accuracy"] == pytest.approx((1 / 6 + 1 / 2) / 2)
    assert metrics["prompts/effective_number"] == pytest.approx(3), "never, half and new have weight 1, always 0"
    assert metrics["prompts/seen_frac"] == 2 / 4


def test_a_curriculum_begins_with_the_easiest():
    keys = [f"p{i}" for i in range(8)]
    known = [Record(i, 8) for i in range(8)]
    easy = PromptChoice(keys, known, curriculum="easy_to_hard")
    assert set(easy.draw(2, 0.0)) == {7, 6}, "a quarter of 8"
    assert set(easy.draw(5, 0.25)) == {7, 6, 5, 4, 3}, "0.25 + 0.75 * 0.25 / 0.5 of 8 are 5"
    drawn = {place for _ in range(50) for place in easy.draw(2, 0.5)}
    assert drawn == set(range(8)), "all from half of the training on"


def test_state_goes_on_where_it_was(tmp_path):
    whole, first = choice("hard", seed=3), choice("hard", seed=3)
    for one in (whole, first):
        one.draw(2, 0.0)
        one.observe(["new", "never"], torch.tensor([1.0, 1.0]))
    first.save(tmp_path)
    second = choice("hard", seed=3)
    second.load(tmp_path)
    assert [second.draw(2, 0.5) for _ in range(5)] == [whole.draw(2, 0.5) for _ in range(5)]
    assert second.mean("never") == whole.mean("never") == 0.2
    with pytest.raises(InputError, match="has no prompts.json"):
        second.load(tmp_path / "elsewhere")


def test_pass_rates_within_bounds():
    records = [Record(0.0, 8.0), Record(1.0, 8.0), Record(), Record(4.0, 8.0), Record(2.0, 2.0)]
    assert within(records, 0.1, 0.9) == [1, 3]
    assert within(records, None, 0.5) == [0, 1, 3]


def test_only_scored_reference_samples_are_known():
    correct = [[None, None], [1.0, None, 0.0, None], [0.0, 0.0], []]
    assert known_records(correct) == [Record(), Record(1.0, 2.0), Record(0.0, 2.0), Record()]


def test_a_bank_is_read_where_something_reads_it():
    assert not recipe(algorithm="grpo").uses_bank
    assert not recipe(algorithm="grpo", weighted_sample=True, sample_strategy="soft").uses_bank
    weighted = {"algorithm": "grpo", "weighted_sample": True, "sample_strategy": "soft"}
    assert recipe(**weighted, sample_prior="bank", num_reference_samples=4).uses_bank
    assert recipe(algorithm="grpo", curriculum="easy_to_hard").uses_bank
    assert recipe(algorithm="grpo", max_reference_pass_rate=0.9).uses_bank


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sample_strategy": "hard"}, "sample_strategy is 'hard' but has no effect, because weighted_sample is false"),
        ({"weighted_sample": True}, "weighted_sample needs a sample_strategy; set it to one of uniform, hard"),
        ({"weighted_sample": True, "sample_strategy": "easy"}, "sample_strategy is 'easy'; it must be one of"),
        ({"curriculum": "hard_to_easy"}, "curriculum is 'hard_to_easy'; it must be easy_to_hard, or null"),
        ({"min_reference_pass_rate": 0.9, "max_reference_pass_rate": 0.1}, "they must be 0 <= min <= max <= 1"),
    ],
)
def test_settings_that_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        recipe(**fields)


def test_a_curriculum_without_a_bank_is_refused():
    with pytest.raises(InputError, match="this run has no bank"):
        PromptChoice(KEYS, [Record()] * 4, curriculum="easy_to_hard")


def test_a_curriculum_takes_a_prompt_that_nothing_is_known_of_for_hard():
    order = choice(curriculum="easy_to_hard")
    assert [[KEYS[i] for i in order.order("batch", 0.0, at_least=number)[:number]] for number in (1, 2)] == [
        ["always"], ["always", "half"],
    ]  # fmt: skip
