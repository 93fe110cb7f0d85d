"""Dead groups drawn again with fresh prompts: which, how often, and in what order the prompts come.

Shapes: P prompts, G rollouts per prompt, B = P * G completions.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from aapo.backends.trl.checks import check_refill
from aapo.errors import InputError
from aapo.grading import Judge
from aapo.learning.batch import BatchScores, Reference, Teacher
from aapo.learning.refill import FreshPrompts, refill
from aapo.learning.rounds import Rollouts, share
from aapo.objective import Collection, objective
from aapo.ranks import Ranks

G = 2


class World:
    """Prompts named by letters; those in `live` have rewards 1 and 0, the others 0 and 0."""

    def __init__(self, live, fresh, logprobs=False):
        self.live, self.left, self.logprobs, self.calls = live, list(fresh), logprobs, []

    def rollouts(self, rows, positions):
        self.calls.append(([row["prompt"] for row in rows], list(positions)))
        rewards = [
            float(row["prompt"] in self.live and position % G == 0)
            for row, position in zip(rows, positions, strict=True)
        ]
        tokens = [10 * len(self.calls) + position for position in positions]
        scores = BatchScores(
            torch.tensor(rewards).unsqueeze(1),
            1 - torch.tensor(rewards),
            torch.tensor(tokens),
            torch.tensor([False] * len(rows)),
            Reference(*(torch.tensor([[sign * float(ord(row["prompt"]))] for row in rows[::G]]) for sign in (1, -1))),
        )
        ids = [[position, ord(row["prompt"])] for row, position in zip(rows, positions, strict=True)]
        return Rollouts(rows, ids, [[-0.5 * p] for p in positions] if self.logprobs else None, scores)

    def fresh(self, number):
        taken, self.left = self.left[:number], self.left[number:]
        return [{"prompt": prompt} for prompt in taken]

    def run(self, batch, **changes):
        rows = [{"prompt": prompt} for prompt in batch for _ in range(G)]
        settings = {"num_generations": G, "min_live_frac": 1.0, "max_rounds": 3, **changes}
        return refill(
            self.rollouts(rows, range(len(rows))),
            silent=lambda scores: scores.rewards_BF.view(-1, G).amax(1) == 0,
            fresh=self.fresh,
            roll_out=self.rollouts,
            **settings,
        )


def test_only_silent_groups_are_drawn_again_and_only_while_they_are():
    world = World(live="acfh", fresh="efgh", logprobs=True)
    rollouts, num_rounds, num_refilled = world.run("abcd")
    # b and d give way to e and f, then e, which is dead too, to g, then g to h.
    assert [row["prompt"] for row in rollouts.rows] == list("aahhccff")
    assert world.calls[1:] == [(list("eeff"), [2, 3, 6, 7]), (list("gg"), [2, 3]), (list("hh"), [2, 3])]
    assert (num_rounds, num_refilled) == (3, 2)
    # Completions, what the engine says of them, and scores are those of the last draw of each row.
    assert rollouts.token_ids == [[i, ord(p)] for i, p in enumerate("aahhccff")]
    assert rollouts.logprobs == [[-0.5 * i] for i in range(8)]
    assert rollouts.scores.rewards_BF.flatten().tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    assert rollouts.scores.tokens_B.tolist() == [10, 11, 42, 43, 14, 15, 26, 27]
    assert rollouts.scores.correct_B.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert rollouts.scores.reference.rewards_PK.flatten().tolist() == [ord(p) for p in "ahcf"]
    assert rollouts.scores.reference.correct_PK.flatten().tolist() == [-ord(p) for p in "ahcf"]


def test_rounds_end_at_the_bound_and_what_is_dead_then_stays():
    world = World(live="a", fresh="efghijklm")
    rollouts, num_rounds, num_refilled = world.run("abcd", max_rounds=2)
    assert [row["prompt"] for row in rollouts.rows] == list("aahhiijj")
    assert (num_rounds, num_refilled, len(world.calls)) == (2, 3, 3)


@pytest.mark.parametrize(
    ("min_live_frac", "batch", "rounds"),
    [(0.5, "abcd", 0), (0.75, "abcd", 1), (0.5, "abbd", 1), (0.7, "aaaaaaabbb", 0)],
)
def test_enough_live_groups_are_enough(min_live_frac, batch, rounds):
    _, num_rounds, _ = World(live="acefg", fresh="efg").run(batch, min_live_frac=min_live_frac)
    assert num_rounds == rounds


def test_when_fresh_prompts_run_out_the_first_dead_groups_get_them():
    world = World(live="ae", fresh="e")
    rollouts, num_rounds, num_refilled = world.run("abcd")
    assert [row["prompt"] for row in rollouts.rows] == list("aaeeccdd")
    assert (num_rounds, num_refilled) == (1, 1)


@pytest.mark.parametrize(("num_groups", "num_processes"), [(4, 1), (4, 2), (3, 2), (4, 3), (1, 3)])
def test_a_round_is_split_into_equal_numbers_of_whole_groups(num_groups, num_processes):
    shares = [share(num_groups, Ranks(index, num_processes)) for index in range(num_processes)]
    assert len({len(part) for part in shares}) == 1
    together = [group for part in shares for group in part]
    assert together[:num_groups] == list(range(num_groups)) and set(together) == set(range(num_groups))


def test_a_group_is_judged_as_its_own_step_is_taught():
    """Two equal groups of two steps: the second step's pairs are other ones, of which one differs."""
    teacher = Teacher(objective("aapo-paired"), ["paid"], torch.ones(1), Judge(), 2, 8)
    reference = Reference(torch.tensor([[0.0, 0.0, 1.0]] * 2), torch.full((2, 3), torch.nan))
    zeros = torch.zeros(4)
    scores = BatchScores(zeros.view(4, 1), zeros, zeros.int(), zeros.bool(), reference)
    # against samples 0 and 1 the rollouts' margin is 0; at the next step against 1 and 2, of which the last pays more
    assert teacher.silent(scores, 0, 2).tolist() == [True, False]
    assert teacher.silent(scores, 0).tolist() == [True, True]
    taught = [teacher.teach(scores.part(i, 2), zeros[:2] + 1, {}, i).is_silent for i in range(2)]
    assert taught == [True, False]


DATA = [{"prompt": letter} for letter in "abcabcdefgh"]


def fresh_prompts(batch="ab", seed=1, step=5):
    return FreshPrompts(DATA, lambda row: row["prompt"], batch, seed, step)


def test_fresh_prompts_are_new_to_the_batch_and_to_each_other():
    prompts = fresh_prompts()
    first, second, none = prompts.take(3), prompts.take(9), prompts.take(1)
    assert sorted(row["prompt"] for row in first + second) == list("cdefgh") and len(first) == 3
    assert none == []


def test_the_order_of_fresh_prompts_is_a_function_of_seed_step_and_batch():
    def order(**changes):
        return [row["prompt"] for row in fresh_prompts(**changes).take(9)]

    assert order() == order(batch="ba") == order(batch="abba")
    assert len({tuple(order(**changes)) for changes in ({}, {"seed": 2}, {"step": 6}, {"batch": "a"})}) == 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tools": [print]}, "tools"),
        ({"environment_factories": {}}, "environments"),
        ({"rollout_func": print}, "a rollout_func"),
        ({"_is_vlm": True}, "images"),
        ({"train_dataset": iter([])}, "a streamed data set"),
    ],
)
def test_a_refill_is_refused_where_completions_are_not_one_turn_of_text(addition, changes, reason):
    fields = {"tools": [], "environment_factories": None, "rollout_func": None, "_is_vlm": False}
    args = SimpleNamespace(collection=Collection(min_live_frac=0.5))
    trainer = SimpleNamespace(args=args, train_dataset=addition, **fields)
    check_refill(trainer)
    vars(trainer).update(changes)
    message = f"^min_live_frac is 0.5, and groups cannot be drawn again with {reason}; set min_live_frac to 0$"
    with pytest.raises(InputError, match=message):
        check_refill(trainer)
    args.collection = Collection(redraw="right")
    message = f"^redraw is right, and groups cannot be drawn again with {reason}; set redraw to none$"
    streamed = "train_dataset" in changes  # the prompts that are drawn again are at hand
    with nullcontext() if streamed else pytest.raises(InputError, match=message):
        check_refill(trainer)
    args.collection = Collection()
    check_refill(trainer)
