"""Every metric that a run logs beyond TRL's own: its key, unit and meaning, declared once."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric's unit and meaning; `docs/metrics.md` is generated from these."""

    unit: str
    meaning: str


SHARE_OF_GROUPS = "share of groups"
SHARE_OF_COMPLETIONS = "share of completions"
SHARE_OF_PROMPTS = "share of prompts"
SHARE_OF_DIFFERENCES = "share of differences"

METRICS: dict[str, Metric] = {
    "rollout/accuracy": Metric(
        SHARE_OF_COMPLETIONS,
        "Judged completions that are right, where prompts are drawn again (`redraw`) of those that they were first "
        "drawn with, since those that are trained on are picked; absent where none is judged.",
    ),
    "rollout/truncated_frac": Metric(SHARE_OF_COMPLETIONS, "Completions cut at the token limit."),
    "rollout/unscored_frac": Metric(
        SHARE_OF_COMPLETIONS,
        "Completions of which nothing says whether they are right, such as those with an unparseable gold.",
    ),
    "rollout/right_length": Metric("tokens", "Mean length of right completions; absent where there is none."),
    "rollout/wrong_length": Metric("tokens", "Mean length of wrong completions; absent where there is none."),
    "rollout/hard_accuracy": Metric(
        SHARE_OF_COMPLETIONS,
        "Right ones on hard prompts, of whose reference samples fewer than 1/3 pass; absent where there is none.",
    ),
    "rollout/medium_accuracy": Metric(SHARE_OF_COMPLETIONS, "Likewise on prompts of which 1/3 to 2/3 pass."),
    "rollout/easy_accuracy": Metric(SHARE_OF_COMPLETIONS, "Likewise on prompts of which more than 2/3 pass."),
    "rollout/hard_frac": Metric(SHARE_OF_PROMPTS, "Hard prompts."),
    "rollout/medium_frac": Metric(SHARE_OF_PROMPTS, "Medium prompts."),
    "rollout/easy_frac": Metric(SHARE_OF_PROMPTS, "Easy prompts."),
    "prompts/effective_number": Metric(
        "prompts",
        "(sum of weights)^2 / sum of squared weights of all prompts; absent unless they are drawn by weight.",
    ),
    "prompts/mean_accuracy": Metric(
        SHARE_OF_COMPLETIONS,
        "Mean over the drawn prompts of their right answers so far, reference samples included; likewise.",
    ),
    "prompts/seen_frac": Metric(SHARE_OF_PROMPTS, "Prompts rolled out so far; likewise."),
    "rollout/generated_tokens": Metric(
        "tokens", "Completion tokens generated for training since its start, refills and live references included."
    ),
    "bank/prompts": Metric("prompts", "Prompts whose reference samples were read so far; absent without a bank."),
    "bank/generated_tokens": Metric(
        "tokens", "Completion tokens of their samples, whichever run drew them; beside `rollout/generated_tokens`."
    ),
    "bank/seconds": Metric("seconds", "What drawing them took."),
    "update/micro_batches": Metric("passes", "Micro-batches that a process cut the step into."),
    "update/skipped_frac": Metric(
        SHARE_OF_COMPLETIONS, "Completions left out of the training phase, because nothing is learnt from them."
    ),
    "rollout/tokens_per_second": Metric(
        "tokens / s", "Prompt and completion tokens rolled out and trained on, per second."
    ),
    "rollout/refill_rounds": Metric(
        "rounds",
        "How often groups without a gradient were drawn again with fresh prompts, or prompts were drawn again "
        "(`redraw`); absent without either.",
    ),
    "rollout/refilled_group_frac": Metric(
        SHARE_OF_GROUPS,
        "Groups that hold a fresh prompt in the place of one without a gradient, or whose prompt was drawn again; "
        "absent likewise.",
    ),
    "rollout/overlong_penalty": Metric(
        "reward", "Mean soft overlong penalty, which the other reward metrics leave out; absent without one."
    ),
    "sampling/lost_token_frac": Metric(
        "share of completion tokens",
        "Tokens whose weight against the sampler's probabilities is under 1/2, those that a mask leaves out included; "
        "absent without vLLM.",
    ),
    "grading/no_answer_frac": Metric(
        SHARE_OF_COMPLETIONS,
        "Completions without a final answer, by the verdicts of the judge; absent without any.",
    ),
    "grading/timeout_frac": Metric(
        SHARE_OF_COMPLETIONS, "Likewise, completions whose comparison was undecided within its limits."
    ),
    "grading/unparseable_gold_frac": Metric(
        SHARE_OF_COMPLETIONS, "Likewise, completions whose gold answer could not be read."
    ),
    "weights/moved_frac": Metric(
        "share of trained weights",
        "Weights that differ from what they were when training began or went on, some of each tensor; of the first ten "
        "steps, and absent under DeepSpeed.",
    ),
    "signal/dead_group_frac": Metric(
        SHARE_OF_GROUPS, "Dead groups: all rewards are equal, so the group-relative advantage is zero."
    ),
    "signal/dead_all_right_frac": Metric(SHARE_OF_GROUPS, "Dead groups in which every completion is right."),
    "signal/dead_all_wrong_frac": Metric(SHARE_OF_GROUPS, "Dead groups in which every completion is wrong."),
    "signal/dead_after_margin_frac": Metric(
        SHARE_OF_GROUPS, "Groups whose augmented advantages are all zero: no gradient, margin included."
    ),
    "signal/dead_after_margin_all_right_frac": Metric(SHARE_OF_GROUPS, "Of those, the groups that are all right."),
    "signal/dead_after_margin_all_wrong_frac": Metric(SHARE_OF_GROUPS, "Of those, the groups that are all wrong."),
    "signal/dead_reference_right_frac": Metric(
        SHARE_OF_GROUPS,
        "Groups that are all right and stay dead because the reference does as well: each of its rewards is theirs.",
    ),
    "signal/dead_reference_failed_frac": Metric(
        SHARE_OF_GROUPS,
        "Groups that are all wrong and stay dead because the reference fails too: each of its rewards is theirs.",
    ),
    "signal/revived_group_frac": Metric(SHARE_OF_GROUPS, "Dead groups to which the margin gives a gradient."),
    "signal/zero_gradient": Metric(
        "0 or 1", "1 when every augmented advantage of the batch is zero, so that no reward is learnt from."
    ),
    "signal/bias": Metric(
        "advantage",
        "Mean augmented advantage of scored completions: above 0 the batch pushes completions up on balance, below 0 "
        "down.",
    ),
    "margin/mean": Metric("reward", "Mean margin over the reference."),
    "margin/clipped_frac": Metric(SHARE_OF_DIFFERENCES, "Reward differences that met a clip bound."),
    "margin/clipped_low_frac": Metric(SHARE_OF_DIFFERENCES, "Of those, the differences below the lower bound."),
    "margin/clipped_high_frac": Metric(SHARE_OF_DIFFERENCES, "Of those, the differences above the upper bound."),
    "margin/advantage_share": Metric(
        "share of absolute advantage",
        "Sum of absolute margins over that of absolute advantages and margins, each completion counted once.",
    ),
    "margin/gradient_share": Metric(
        "share of absolute advantage",
        "Likewise, with each completion counted by what its tokens weigh in the loss; not a share of the gradient's "
        "norm.",
    ),
    "margin/hard": Metric("reward", "Mean margin on hard prompts; absent where there is none."),
    "margin/medium": Metric("reward", "Mean margin on medium prompts; absent where there is none."),
    "margin/easy": Metric("reward", "Mean margin on easy prompts; absent where there is none."),
    "margin/reference_reward": Metric("reward", "Mean reference reward of the batch's prompts."),
}


def markdown_table() -> str:
    """The table in `docs/metrics.md`."""
    rows = [f"| `{key}` | {metric.unit} | {metric.meaning} |" for key, metric in METRICS.items()]
    return "\n".join(["| metric | unit | meaning |", "|---|---|---|", *rows]) + "\n"
