"""What a bank's numbers mean for a run: causes, in the order in which one explains the others, and what to do."""

from collections.abc import Iterator

from aapo.training.bank_report import BankReport, Setting
from aapo.training.findings import Finding, percent, quoted

# From these shares on a finding is made of it.
MANY_CUT, MANY_UNREAD, MANY_SILENT, MANY_UNPARSEABLE = 0.25, 0.25, 0.9, 0.02
READABLE = r"a \boxed{}, an <answer></answer>, or what answer_convention names"


def bank_findings(report: BankReport, setting: Setting) -> list[Finding]:
    """What is wrong, by what is likely to be the cause of the rest; errors where no group can have a gradient.

    A reference that is another model than the one that is trained gives warnings only: rollouts may be better.
    """
    if not report.num_prompts:
        return []
    faults = [*_faults(report, setting)]
    if not report.groups.learnable:
        level = "error" if setting.same_model else "warning"
        causes = faults or [Finding("error", "equal rewards", "all reference samples have the same reward")]
        return [cause._replace(level=level) for cause in causes]
    return [*faults, *_of_groups(report)]


def _faults(report: BankReport, setting: Setting) -> Iterator[Finding]:
    """What can make a run learn nothing."""
    rate = report.pass_rate.estimate
    if rate == 1:
        advice = "take harder prompts; nothing is left to be learnt on these"
        yield Finding("warning", "all right", "all reference samples are right", advice, "docs/curriculum.md")
    if report.grading is not None and (share := report.grading.unparseable_gold_frac) >= MANY_UNPARSEABLE:
        text = f"{percent(share)} of the reference samples have a gold answer that cannot be read{_a_gold(report)}"
        advice = "check answer_column, or drop such rows by drop_unparseable_gold"
        yield Finding("warning", "unparseable gold", text, advice, "docs/grading.md")
    if (share := report.truncated_frac) >= MANY_CUT:
        text = (
            f"{percent(share)} of the reference model's completions are cut at max_completion_length "
            f"{report.max_completion_length}"
        )
        yield Finding("warning", "truncated", text, "raise it", "docs/doctor.md")
    if report.unread_frac >= MANY_UNREAD:
        whole = " that are not cut" if report.truncated_frac else ""
        share = percent(report.unread_frac)
        text = f"{share} of the completions{whole} have no answer that the grader reads ({READABLE})"
        yield Finding("warning", "no answer", text, _form_advice(report, setting), "docs/grading.md")
    for name, paid in report.constant.items() if rate not in (0, 1) else ():  # there it is no wonder
        text = f"reward function {name} pays {paid:g} to all samples of the reference bank"
        advice = "as long as it pays all completions the same it teaches nothing; mend it or take it out"
        yield Finding("warning", "constant", text, advice, "docs/grading.md")
    if rate == 0:
        yield from _none_right(report)


def _none_right(report: BankReport) -> Iterator[Finding]:
    """Of a bank without a right sample, what else could be the cause, or what can be learnt all the same."""
    answered = 1 - (report.grading.no_answer_frac if report.grading else 0.0)
    if report.groups.learnable:
        names = [name for name, spread in report.spread.items() if spread > 0] or ["the length"]
        text = f"no reference sample is right, so that only {', '.join(names)} can be learnt"
    elif answered > 1 - MANY_UNREAD:
        text = f"no reference sample is right, though {percent(answered)} have an answer"
    else:
        return  # because there is no answer, which has been said
    example = next((item for item in report.samples if item.extracted), None)
    shown = f" (gold {quoted(example.gold)}, answer {quoted(example.extracted)})" if example else ""
    advice = "check answer_column; if the gold answers are right the prompts are too hard, so take easier ones"
    yield Finding("warning", "none right", text + shown, advice, "docs/data.md")


def _of_groups(report: BankReport) -> Iterator[Finding]:
    """Of a bank in which some sample is right, what weakens the signal."""
    if report.pass_rate.estimate == 0:
        return
    if (share := report.groups.dead_after_margin_frac) >= MANY_SILENT:
        text = f"{percent(share)} of the groups of {report.num_generations} are expected to have no gradient"
        advice = "raise num_generations, leave out hopeless and solved prompts (min_reference_pass_rate), or refill"
        yield Finding("warning", "dead groups", text, advice, "docs/curriculum.md")
    judged = report.spread.get(report.judge or "")
    for name, spread in report.spread.items():
        if judged is not None and spread > judged:
            text = (
                f"reward function {name} moves rewards more than {report.judge} does: weighted, their samples of a "
                f"prompt spread by {spread:.2g} and {judged:.2g}"
            )
            yield Finding(
                "warning", "dominated", text, f"lower the weight of {name} (reward_weights)", "docs/grading.md"
            )


def _form_advice(report: BankReport, setting: Setting) -> str:
    """What the prompt asks for, how a completion ends, and what to do about the two."""
    asks = f"the prompt asks {quoted(setting.asks)}" if setting.asks else "no system_prompt asks for one"
    unread = (item for item in report.samples if item.verdict == "no answer")
    example = next((item for item in sorted(unread, key=lambda item: item.truncated)), None)
    ends = f", a completion ends {quoted(example.completion)}" if example else ""
    return f"{asks}{ends}: ask for one of these forms, or set answer_convention to the form that the model uses"


def _a_gold(report: BankReport) -> str:
    example = next((item for item in report.samples if item.verdict == "unparseable gold"), None)
    return f", such as {quoted(example.gold)}" if example else ""
