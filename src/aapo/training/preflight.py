"""Whether training can work, said by the reference bank before the first step."""

from collections.abc import Iterator
from typing import Any

from datasets import Dataset

from aapo.bank import ReferenceBank
from aapo.errors import InputError
from aapo.grading import reward_name
from aapo.progress import console
from aapo.ranks import launched
from aapo.recipe import Recipe
from aapo.scoring import as_prompt
from aapo.training.bank_report import BankReport, Setting, report_bank
from aapo.training.findings import Finding, wrapped

# From these shares on a finding is made of it.
MANY_CUT, MANY_UNREAD, MANY_SILENT, MANY_UNPARSEABLE = 0.25, 0.25, 0.9, 0.02
READABLE = r"a \boxed{}, an <answer></answer>, or what answer_convention names"
HEAD = "preflight: what the reference bank says of the first steps"
MAX_QUOTED = 60
SHOWN_START, SHOWN_END = 400, 400


def preflight(
    recipe: Recipe, bank: ReferenceBank, prompts: Dataset, tokenizer: Any, *, show_samples: bool = False
) -> BankReport:
    """Print what the bank says about the run, and end one that cannot learn anything unless the recipe says otherwise.

    Args:
        recipe: What is run; its `preflight` is stop, warn or off.
        bank: The reference model's samples.
        prompts: The run's prompts, those of the bank count.
        tokenizer: The model's.
        show_samples: Print three samples with their verdicts.

    Raises:
        InputError: No group can have a gradient, and `preflight` is stop; the message names the cause and the fix.
    """
    setting, options = run_setting(recipe), recipe.training.template_options
    report = report_bank(bank, setting, {as_prompt(dict(row), tokenizer, **options).key for row in prompts})
    findings = bank_findings(report, setting)
    fatal = [finding for finding in findings if finding.level == "error"]
    stops = bool(fatal) and recipe.run.preflight == "stop"
    if launched().is_main:
        lines = [HEAD, *(f"  {line}" for line in summary_lines(report))]
        # What the run is ended by stands in the error.
        lines += [line for finding in findings if not stops or finding.level != "error" for line in finding.lines()]
        for line in [*lines, *(sample_lines(report) if show_samples else [])]:
            console.print(line, markup=False)
    if stops:
        margin = " and its margin zero" if report.has_margin else ""
        raise InputError(
            f"nothing can be learnt: every group of {report.num_generations} would be dead{margin}, because "
            f"{'. Besides, '.join(finding.sentence for finding in fatal)}; to train all the same set preflight to warn"
        )
    return report


def run_setting(recipe: Recipe) -> Setting:
    """What the recipe decides of what a bank says."""
    training, names = recipe.training, [reward_name(function) for function in recipe.reward_funcs]
    reference = recipe.run.reference_model_name_or_path
    template = recipe.data.prompt_template
    return Setting(
        training.objective,
        training.num_generations,
        training.sampling.max_completion_length,
        dict(zip(names, training.reward_weights or [1.0] * len(names), strict=True)),
        training.judgement,
        recipe.data.system_prompt or ("" if template == "{question}" else template),
        reference in (None, recipe.model.model_name_or_path),
    )


def summary_lines(report: BankReport) -> list[str]:
    """The bank in the light of the run, in four lines of at most 78 columns."""
    rate, groups = report.pass_rate, report.groups
    known = rate.estimate == rate.estimate  # NaN is not
    shown = f"{rate.estimate:.3f} [{rate.low:.3f}, {rate.high:.3f}]" if known else "unknown"
    margin = f", {_percent(groups.silent_frac)} with the margin" if report.has_margin else ""
    kinds = f" ({_percent(groups.all_wrong_frac)} all wrong, {_percent(groups.all_right_frac)} all right)"
    lines = [
        f"{report.num_prompts} prompts x {report.num_samples} reference samples, pass rate {shown}",
        f"groups of {report.num_generations}: {_percent(groups.dead_frac)} dead{margin}{kinds if known else ''}",
        f"completions: {report.mean_tokens:.0f} tokens on average, at most {report.max_tokens} of "
        f"{report.max_completion_length}; {_percent(report.truncated_frac)} cut",
    ]
    if (shares := report.grading) is not None:
        lines.append(
            f"grading: {_percent(shares.no_answer_frac)} no answer, {_percent(shares.unparseable_gold_frac)} "
            f"unparseable gold, {_percent(shares.timeout_frac)} timeout"
        )
    return lines


def sample_lines(report: BankReport) -> list[str]:
    """Three samples with their verdicts as plain text of at most 80 columns; long completions without their middle."""
    lines = []
    for sample in report.samples:
        cut = ", cut" if sample.truncated else ""
        answer = f", answer {_quoted(sample.extracted)}" if sample.extracted else ""
        head = f"sample ({sample.num_tokens} tokens{cut}): {sample.verdict}{answer}, gold {_quoted(sample.gold)}"
        lines += wrapped(head, "  ", "    ")
        for paragraph in _shortened(sample.completion).split("\n"):
            lines += wrapped(_printable(paragraph), "  | ", "  | ") or ["  |"]
    return lines


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
        text = f"{_percent(share)} of the reference samples have a gold answer that cannot be read{_a_gold(report)}"
        advice = "check answer_column, or drop such rows by drop_unparseable_gold"
        yield Finding("warning", "unparseable gold", text, advice, "docs/grading.md")
    if (share := report.truncated_frac) >= MANY_CUT:
        text = (
            f"{_percent(share)} of the reference model's completions are cut at max_completion_length "
            f"{report.max_completion_length}"
        )
        yield Finding("warning", "truncated", text, "raise it", "docs/doctor.md")
    if report.unread_frac >= MANY_UNREAD:
        whole = " that are not cut" if report.truncated_frac else ""
        share = _percent(report.unread_frac)
        text = f"{share} of the completions{whole} have no answer that the grader reads ({READABLE})"
        yield Finding("warning", "no answer", text, _form_advice(report, setting), "docs/grading.md")
    for name, paid in report.constant.items() if rate not in (0, 1) else ():  # there it is no wonder
        text = f"reward function {name} pays {paid:g} to all samples of the reference bank"
        advice = "as long as it pays all completions the same it teaches nothing; mend it or take it out"
        yield Finding("warning", "constant", text, advice, "docs/grading.md")
    if rate == 0:
        yield from _none_right(report)


def _none_right(report: BankReport) -> Iterator[Finding]:
    """Of a bank without a right sample, what else could be the cause."""
    answered = 1 - (report.grading.no_answer_frac if report.grading else 0.0)
    if answered <= 1 - MANY_UNREAD and not report.groups.learnable:
        return  # because there is no answer, which has been said
    text = f"no reference sample is right, though {_percent(answered)} have an answer"
    example = next((item for item in report.samples if item.extracted), None)
    shown = f" (gold {_quoted(example.gold)}, answer {_quoted(example.extracted)})" if example else ""
    advice = "check answer_column; if the gold answers are right the prompts are too hard, so take easier ones"
    yield Finding("warning", "none right", text + shown, advice, "docs/data.md")


def _of_groups(report: BankReport) -> Iterator[Finding]:
    if report.pass_rate.estimate == 0:
        return
    if (share := report.groups.silent_frac) >= MANY_SILENT:
        text = f"{_percent(share)} of the groups of {report.num_generations} are expected to have no gradient"
        advice = "raise num_generations, leave out hopeless and solved prompts (min_reference_pass_rate), or refill"
        yield Finding("warning", "dead groups", text, advice, "docs/curriculum.md")


def _form_advice(report: BankReport, setting: Setting) -> str:
    """What the prompt asks for, how a completion ends, and what to do about the two."""
    asks = f"the prompt asks {_quoted(setting.asks)}" if setting.asks else "no system_prompt asks for one"
    unread = (item for item in report.samples if item.verdict == "no answer")
    example = next((item for item in sorted(unread, key=lambda item: item.truncated)), None)
    ends = f", a completion ends {_quoted(example.completion)}" if example else ""
    return f"{asks}{ends}: ask for one of these forms, or set answer_convention to the form that the model uses"


def _a_gold(report: BankReport) -> str:
    example = next((item for item in report.samples if item.verdict == "unparseable gold"), None)
    return f", such as {_quoted(example.gold)}" if example else ""


def _percent(share: float) -> str:
    """A share as a percentage that is 0% or 100% only where it is exactly that."""
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"


def _quoted(text: str | None) -> str:
    """The end of a text in quotes, on one line, control characters escaped."""
    words = " ".join((text or "").split())
    return repr(words if len(words) <= MAX_QUOTED else "…" + words[-MAX_QUOTED:])


def _shortened(text: str) -> str:
    if len(text) <= SHOWN_START + SHOWN_END:
        return text
    return f"{text[:SHOWN_START]}\n[... {len(text) - SHOWN_START - SHOWN_END} characters ...]\n{text[-SHOWN_END:]}"


def _printable(text: str) -> str:
    """What a model wrote, unable to command a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text.expandtabs(2))
