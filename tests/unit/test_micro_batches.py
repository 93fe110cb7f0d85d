"""How a step is cut: everything in it once, nothing over the budget, the same number of passes for all."""

import itertools
import random
from collections import Counter

import pytest
import torch

from aapo.learning.micro_batches import RowSize, cut
from aapo.learning.window import Window


def rows_like(seed, size=24, groups=6):
    draw = random.Random(seed)
    prompts = [draw.randint(3, 60) for _ in range(groups)]
    return [RowSize(prompts[i % groups], draw.randint(1, 90), i % groups) for i in range(size)]


def tokens_of(rows, places, share):
    prompts = {rows[place].prompt: rows[place].prompt_tokens for place in places}
    completions = sum(rows[place].completion_tokens for place in places)
    return completions + (sum(prompts.values()) if share else sum(rows[place].prompt_tokens for place in places))


@pytest.mark.parametrize(
    ("seed", "processes", "share"), list(itertools.product(range(5), (1, 2, 3), (False, True))), ids=str
)
def test_every_row_is_learnt_from_once_within_the_budget(seed, processes, share):
    rows = rows_like(seed)
    found = cut(rows, 200, processes, share=share)
    counted = Counter(
        place
        for one, flags in zip(found.passes, found.repeated, strict=True)
        for places, repeated in zip(one, flags, strict=True)
        if not repeated
        for place in places
    )
    assert counted == Counter(range(len(rows)))
    assert all(len(one) == processes and all(one) for one in found.passes)
    for places in itertools.chain(*found.passes):
        assert len(places) == 1 or tokens_of(rows, places, share) <= 200


def test_a_row_over_the_budget_is_alone():
    rows = [RowSize(10, 500), RowSize(10, 20), RowSize(10, 20)]
    passes = cut(rows, 100).passes
    assert sorted(map(sorted, itertools.chain(*passes))) == [[0], [1, 2]]


def test_processes_get_about_equal_work():
    rows = [RowSize(0, n) for n in (80, 70, 60, 50, 40, 30, 20, 10)]
    ((first, second),) = cut(rows, 1000, 2).passes
    # 80 + 50 + 40 + 10 against 70 + 60 + 30 + 20, but for what attention adds
    assert tokens_of(rows, first, False) == tokens_of(rows, second, False) == 180


def test_a_long_row_is_more_work_than_short_ones_of_as_many_tokens():
    rows = [RowSize(0, 4000), *[RowSize(0, 1000)] * 8]
    (one,) = cut(rows, 10**5, 2, hidden_size=32).passes
    # tokens + tokens^2 / (24 x 32): 24,833 of the long row against 8 x 2,302
    assert sorted(map(sorted, one)) == [[0], [1, 2, 3, 4, 5, 6, 7, 8]]
    (even,) = cut(rows, 10**5, 2, hidden_size=10**6).passes
    assert sorted(sum(rows[place].tokens for place in places) for places in even) == [6000, 6000]


def test_the_micro_batches_of_a_pass_are_of_like_work():
    rows = [RowSize(0, n) for n in (90, 50, 45, 40, 30, 20)]
    # the least first: 90, 50, 45 + 20 and 40 + 30
    tokens = [[sum(rows[place].tokens for place in places) for places in one] for one in cut(rows, 100, 2).passes]
    assert tokens == [[90, 70], [65, 50]]


def test_shared_prompts_stay_together_and_are_counted_once():
    rows = [RowSize(100, 10, group) for group in (0, 1, 0, 1, 0, 1)]
    (one,) = cut(rows, 260, share=True).passes
    assert sorted(one[0]) == [0, 1, 2, 3, 4, 5]  # 2 x 100 + 6 x 10
    two = cut(rows, 150, share=True).passes
    assert sorted(sorted(places) for places in itertools.chain(*two)) == [[0, 2, 4], [1, 3, 5]]
    assert len(cut(rows, 260).passes) == 3  # 6 x 110 tokens, two rows each


def test_where_rows_run_out_one_stands_in_and_counts_nothing():
    rows = [RowSize(5, 10), RowSize(5, 3)]
    found = cut(rows, 100, 3)
    ((*places,), (*repeated,)) = found.passes[0], found.repeated[0]
    assert places == [[0], [1], [1]] and repeated == [False, False, True]
    assert found.of_process(2) == [([1], True)]


def test_a_window_is_kept_to_the_last_bit(tmp_path):
    columns = {
        "ids": [torch.tensor([3, 1, 4]), torch.tensor([1]), torch.tensor([5, 9]), torch.tensor([2, 6, 5])],
        "logprobs": [torch.tensor([0.1, -1 / 3, 1e-30]), torch.tensor([0.7]), torch.rand(2), torch.rand(3)],
        "advantage": [torch.tensor(0.1), torch.tensor(-0.2), torch.tensor(0.0), torch.tensor(1 / 3)],
    }
    window = Window(columns, [{"a": 0.1}, {"a": 1 / 3}])
    window.save(tmp_path)
    loaded = Window.load(tmp_path)
    assert loaded is not None and loaded.metrics == window.metrics
    for step in (0, 1):
        before, after = window.step(step), loaded.step(step)
        assert before.keys() == after.keys()
        for name in before:
            assert all(
                torch.equal(one, other) and one.dtype == other.dtype
                for one, other in zip(before[name], after[name], strict=True)
            )
    assert [row.tolist() for row in window.step(1)["ids"]] == [[5, 9], [2, 6, 5]]
    assert Window.load(tmp_path / "nowhere") is None
