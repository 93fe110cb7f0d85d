"""Prompts drawn again until enough rollouts are right and wrong: which, how often, what is kept, on any processes.

Shapes: P prompts, G rollouts per prompt, D drawn for a prompt, X of them spare, B = P * G completions.
"""

import math
from threading import Barrier, Thread

import pytest
import torch

from aapo.errors import InputError
from aapo.grading import Judge
from aapo.learning.batch import BatchScores, Reference, Teacher
from aapo.learning.redraw import keep, redraw, resolved
from aapo.learning.rounds import Rollouts
from aapo.objective import Collection, objective
from aapo.ranks import ALONE, Ranks
from aapo.recipe.training import TrainingSettings

G, NAN = 4, math.nan


class World:
    """Prompts named by a letter; a rollout is right as the letter's script says of its round and place in the group.

    A script has a text of G marks for each draw of its prompt: 1 right, 0 wrong, ? unknown; the last one goes on.
    """

    def __init__(self, logprobs=False, **scripts):
        self.scripts, self.logprobs, self.calls = scripts, logprobs, []

    def draws(self, num_prompts):
        def roll_out(rows, positions):
            self.calls.append(([row["prompt"] for row in rows], list(positions)))
            marks = []
            for row, position in zip(rows, positions, strict=True):
                script = self.scripts[row["prompt"]]
                number = position // G // num_prompts
                marks.append(script[min(number, len(script) - 1)][position % G])
            values = torch.tensor([{"1": 1.0, "0": 0.0, "?": NAN}[mark] for mark in marks])
            scores = BatchScores(
                torch.stack([values, torch.tensor(positions) / 100], 1),
                values,
                torch.tensor(positions) + 1,
                torch.tensor([position % 2 == 0 for position in positions]),
            )
            ids = [[position, ord(row["prompt"])] for row, position in zip(rows, positions, strict=True)]
            return Rollouts(rows, ids, [[-0.5 * p] for p in positions] if self.logprobs else None, scores)

        return roll_out

    def run(self, batch, until="balanced", max_rounds=3, ranks=ALONE, gather_scores=lambda scores: scores):
        draw = self.draws(len(batch))

        def roll_out(rows, positions):
            drawn = draw(rows, positions)
            return drawn._replace(scores=gather_scores(drawn.scores))

        size = len(batch) * G // ranks.count
        mine = range(ranks.index * size, (ranks.index + 1) * size)
        first = roll_out([{"prompt": batch[i // G]} for i in mine], list(mine))
        reference_PK = torch.tensor([[float(ord(prompt))] for prompt in batch])
        scores = first.scores._replace(reference=Reference(reference_PK, -reference_PK))
        return redraw(
            first._replace(scores=scores), num_generations=G, until=until, max_rounds=max_rounds, roll_out=roll_out,
            ranks=ranks,
        )  # fmt: skip


def test_prompts_are_drawn_again_until_half_could_be_right_and_half_wrong():
    # a has enough at once; b lacks two right ones and gets them in two rounds; c has nothing right, and a bound.
    world = World(a=["0110"], b=["0000", "0100", "1111"], c=["0000"])
    found = world.run("abc")
    assert world.calls[1:] == [
        (list("bbbbcccc"), list(range(16, 24))),  # the second group of three, in round 1: 4 * (3 + 1)
        (list("bbbbcccc"), list(range(28, 36))),
        (list("cccc"), list(range(44, 48))),
    ]
    assert (found.num_rounds, found.num_groups) == (3, 2)
    # Of b: the first two wrong ones, then the first two right ones, in the order in which they were drawn.
    assert [ids[0] for ids in found.rollouts.token_ids] == [0, 1, 2, 3, 4, 5, 17, 28, 8, 9, 10, 11]
    assert [row["prompt"] for row in found.rollouts.rows] == list("aaaabbbbcccc")


def test_scores_and_spare_are_those_of_what_was_drawn():
    world = World(a=["0110"], b=["0000", "0111"], logprobs=True)
    rollouts = world.run("ab").rollouts
    places = [0, 1, 2, 3, 4, 5, 13, 14]
    assert [ids[0] for ids in rollouts.token_ids] == places
    assert rollouts.logprobs == [[-0.5 * place] for place in places]
    scores = rollouts.scores
    assert scores.correct_B.tolist() == [0, 1, 1, 0, 0, 0, 1, 1]
    assert scores.tokens_B.tolist() == [place + 1 for place in places]
    assert scores.truncated_B.tolist() == [place % 2 == 0 for place in places]
    assert scores.rewards_BF[:, 1].tolist() == pytest.approx([place / 100 for place in places])
    # Reference rewards stay those that the prompts had.
    assert scores.reference.rewards_PK.flatten().tolist() == [ord("a"), ord("b")]
    assert scores.spare.tokens_PX.tolist() == [[0, 0, 0, 0], [7, 8, 13, 16]]
    assert scores.spare.rewards_PXF[0].isnan().all() and scores.spare.rewards_PXF.shape == (2, 4, 2)
    assert scores.spare.rewards_PXF[1].flatten().tolist() == pytest.approx([0, 0.06, 0, 0.07, 0, 0.12, 1, 0.15])
    # The fair sample of the policy is the first draw: 2 of 8, where 4 of 8 are trained on.
    assert scores.first_correct_B.tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    assert [scores.part(i, 2).spare.tokens_PX.tolist() for i in (0, 1)] == [[[0, 0, 0, 0]], [[7, 8, 13, 16]]]
    assert scores.part(1, 2).first_correct_B.tolist() == [0, 0, 0, 0]


def test_a_batch_that_has_enough_is_as_it_was_drawn():
    world = World(a=["0110"], b=["1001"])
    found = world.run("ab")
    assert (found.num_rounds, found.num_groups, len(world.calls)) == (0, 0, 1)
    assert [ids[0] for ids in found.rollouts.token_ids] == list(range(8)) and found.rollouts.scores.spare is None


def test_one_right_rollout_is_enough_where_that_is_asked_for():
    world = World(a=["0000", "0010"], b=["1111"])
    found = world.run("ab", until="right")
    assert world.calls[1:] == [(list("aaaa"), [8, 9, 10, 11])] and found.num_rounds == 1
    assert [ids[0] for ids in found.rollouts.token_ids] == [0, 1, 2, 10, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("correct", "num_generations", "right", "balanced"),
    [
        ([0, 0, 0, 0], 4, False, False),
        ([0, 1, 0, 0], 4, True, False),
        ([0, 1, 0, 1], 4, True, True),
        ([1, 1, 1, 0], 4, True, False),
        ([1, 1, NAN, NAN], 4, True, False),
        ([1, 0, 0], 3, True, True),  # of an odd group one more is wrong
        ([1, 1, 0], 3, True, False),
    ],
)
def test_when_a_prompt_is_resolved(correct, num_generations, right, balanced):
    found = [resolved(torch.tensor(correct), num_generations, until) for until in ("right", "balanced")]
    assert found == [right, balanced]


@pytest.mark.parametrize(
    ("correct", "kept"),
    [
        ([0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 2, 3]),  # the earliest two of each
        ([0, 0, 0, 0, 0, 0, 0, 1], [0, 1, 2, 7]),  # one right: filled by wrong ones
        ([1, 1, 1, 1, 1, 0, 1, 1], [0, 1, 2, 5]),
        ([1, 1, 1, 0, 1, 0, 1, 0], [0, 1, 3, 5]),
        ([0, 0, 0, 0, 0, 0, 0, 0], [0, 1, 2, 3]),
        ([NAN, NAN, 0, NAN, NAN, 1, NAN, NAN], [0, 1, 2, 5]),  # what is neither fills last
        ([NAN, 1, 1, 1, NAN, 0, 0, 0], [1, 2, 5, 6]),
    ],
)
def test_which_rollouts_are_kept(correct, kept):
    assert keep(torch.tensor(correct), 4) == kept


SCRIPTS = {"a": ["0110"], "b": ["0000", "0100", "1111"], "c": ["1111", "1?01", "0100"], "d": ["?000"]}


def test_two_processes_redraw_as_one_does():
    """Three groups of four on two processes, so that the second group is on both."""
    for batch in ("abc", "dcb", "aad"):
        alone = World(**SCRIPTS).run(batch)
        world, together, barrier, tables = World(**SCRIPTS), [None, None], Barrier(2), {}

        def run(index, batch=batch, world=world, together=together, barrier=barrier, tables=tables):
            def gather(items):
                tables[index] = list(items)
                barrier.wait()
                found = tables[0] + tables[1]
                barrier.wait()
                return found

            def gather_scores(scores):
                return BatchScores(*(torch.stack(gather(values.unbind())) for values in scores[:4]))

            ranks = Ranks(index, 2, gather=gather)
            together[index] = world.run(batch, ranks=ranks, gather_scores=gather_scores)

        threads = [Thread(target=run, args=(index,)) for index in (0, 1)]
        [thread.start() for thread in threads]
        [thread.join(20) for thread in threads]
        first, second = together
        assert first.rollouts.token_ids + second.rollouts.token_ids == alone.rollouts.token_ids
        assert (first.num_rounds, first.num_groups) == (alone.num_rounds, alone.num_groups)
        for found in (first, second):
            for one, other in zip(found.rollouts.scores[:4], alone.rollouts.scores[:4], strict=True):
                torch.testing.assert_close(one, other, equal_nan=True)
            for one, other in zip(found.rollouts.scores.spare, alone.rollouts.scores.spare, strict=True):
                torch.testing.assert_close(one, other, equal_nan=True)


def test_a_step_is_taught_by_the_statistics_of_all_that_was_drawn():
    """b: right twice of eight, of which two right and two wrong are kept: 1 - 1/4 and 0 - 1/4. a: 2 of 4."""
    scores = World(a=["0110"], b=["0000", "0101"]).run("ab").rollouts.scores
    teacher = Teacher(objective("reinforce-ada"), ["paid", "other"], torch.tensor([1.0, 0.0]), Judge(), G, 100)
    lesson = teacher.teach(scores._replace(reference=None), torch.ones(8), {}, 0)
    expected = [[-0.5, 0.5, 0.5, -0.5], [-0.25, -0.25, 0.75, 0.75]]
    torch.testing.assert_close(lesson.advantages.augmented_PG, torch.tensor(expected))
    # What says how good the policy is counts the first draw; what says what is learnt from, the groups.
    assert lesson.metrics["rollout/accuracy"] == 2 / 8
    assert lesson.metrics["signal/bias"] == pytest.approx((0 + 1) / 8)


def settings(**changes):
    return TrainingSettings(algorithm="reinforce-ada", bf16=False, **changes)


def test_prompts_are_drawn_again_by_what_is_known_to_be_right():
    settings().check_judge(["accuracy"])
    settings(judge_threshold=1.0).check_judge(["mine"])
    settings(redraw="none").check_judge(["mine", "len"])
    with pytest.raises(InputError, match="^the algorithm reads what is right, and none of the reward func"):
        settings().check_judge(["mine"])
    message = (
        "^redraw is balanced, and reward function 'len' compares completions that are drawn together, which are not "
        "those that are kept; remove it, or set redraw to none$"
    )
    with pytest.raises(InputError, match=message):
        settings().check_judge(["accuracy", "len"])


def test_a_prompt_is_not_both_drawn_again_and_replaced():
    message = (
        "^redraw is right and min_live_frac 0.5; a prompt is drawn again or gives way to a fresh one, so set redraw to "
        "none or min_live_frac to 0$"
    )
    with pytest.raises(InputError, match=message):
        Collection(redraw="right", min_live_frac=0.5)
    with pytest.raises(InputError, match="^redraw is 'sometimes'; it must be one of none, right, balanced$"):
        Collection(redraw="sometimes")
