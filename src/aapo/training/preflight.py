"""Whether training can work, said by the reference bank before the first step."""

from collections.abc import Sequence

from aapo.bank import ReferenceBank
from aapo.errors import InputError
from aapo.grading import reward_name
from aapo.progress import console
from aapo.ranks import launched
from aapo.recipe import Recipe
from aapo.records import Prompt
from aapo.training.bank_findings import bank_findings
from aapo.training.bank_report import BankReport, Setting, report_bank
from aapo.training.findings import percent, quoted, wrapped

HEAD = "preflight: what the reference bank says of the first steps"
SHOWN_START, SHOWN_END = 400, 400


def preflight(
    recipe: Recipe,
    bank: ReferenceBank,
    prompts: Sequence[Prompt],
    *,
    show_samples: bool = False,
    may_stop: bool = True,
) -> BankReport:
    """Print what the bank says about the run, and end one that cannot learn anything unless the recipe says otherwise.

    Args:
        recipe: What is run; its `preflight` is stop, warn or off.
        bank: The reference model's samples.
        prompts: The run's prompts, of which those count that the bank has; of none nothing is said.
        show_samples: Print three samples with their verdicts.
        may_stop: Whether the run has yet to begin. Of one that is resumed the bank may hold but a few prompts, and what
            it has learnt is not in the bank.

    Raises:
        InputError: No group can have a gradient, `preflight` is stop and the run may stop; the message names the cause
            and the fix.
    """
    setting = run_setting(recipe)
    report = report_bank(bank, setting, {prompt.key for prompt in prompts})
    findings = bank_findings(report, setting)
    fatal = [finding for finding in findings if finding.level == "error"]
    stops = may_stop and bool(fatal) and recipe.run.preflight == "stop"
    if report.num_prompts and launched().is_main:
        lines = [HEAD, *(f"  {line}" for line in summary_lines(report))]
        # What the run is ended by stands in the error.
        lines += [line for finding in findings if not stops or finding.level != "error" for line in finding.lines()]
        for line in [*lines, *(sample_lines(report) if show_samples else [])]:
            console.print(line)
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
    margin = f", {percent(groups.dead_after_margin_frac)} with the margin" if report.has_margin else ""
    kinds = f" ({percent(groups.all_wrong_frac)} all wrong, {percent(groups.all_right_frac)} all right)"
    lines = [
        f"{report.num_prompts} prompts x {report.num_samples} reference samples, pass rate {shown}",
        f"groups of {report.num_generations}: {percent(groups.dead_frac)} dead{margin}{kinds if known else ''}",
        f"completions: {report.mean_tokens:.0f} tokens on average, at most {report.max_tokens} of "
        f"{report.max_completion_length}; {percent(report.truncated_frac)} cut",
    ]
    if (shares := report.grading) is not None:
        lines.append(
            f"grading: {percent(shares.no_answer_frac)} no answer, {percent(shares.unparseable_gold_frac)} "
            f"unparseable gold, {percent(shares.timeout_frac)} timeout"
        )
    return lines


def sample_lines(report: BankReport) -> list[str]:
    """Three samples with their verdicts as plain text of at most 80 columns; long completions without their middle."""
    lines = []
    for sample in report.samples:
        cut = ", cut" if sample.truncated else ""
        answer = f", answer {quoted(sample.extracted)}" if sample.extracted else ""
        head = f"sample ({sample.num_tokens} tokens{cut}): {sample.verdict}{answer}, gold {quoted(sample.gold)}"
        lines += wrapped(head, "  ", "  ")
        for paragraph in _shortened(sample.completion).split("\n"):
            lines += wrapped(_printable(paragraph), "  | ", "  | ")
    return lines


def _shortened(text: str) -> str:
    if len(text) <= SHOWN_START + SHOWN_END:
        return text
    return f"{text[:SHOWN_START]}\n[... {len(text) - SHOWN_START - SHOWN_END} characters ...]\n{text[-SHOWN_END:]}"


def _printable(text: str) -> str:
    """What a model wrote, unable to command a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text.expandtabs(2))
