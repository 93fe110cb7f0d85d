"""The report of synthetic runs and evaluations: what it says, what it escapes, and what it does without data."""

import html
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from aapo.errors import InputError
from aapo.evaluation import Evaluation, difference_rows, result_rows, save_results
from aapo.evaluation.evaluation import SAMPLE_COLUMNS
from aapo.evaluation.results import clear_leaders
from aapo.reporting import write_report
from aapo.reporting.curves import draw_curves
from aapo.reporting.evaluation import judge
from aapo.reporting.problems import characters_shown, task_problems
from aapo.reporting.scores import draw_scores
from aapo.reporting.series import read_series, smooth
from aapo.runs import RunDirectory

HOSTILE = "<script>alert(1)</script></pre><img src=x onerror=alert(2)>{{ 7 * 7 }}"
CURVES = ["reward", "accuracy", "completion_length", "dead_groups", "overview", "signals"]


def metrics_row(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "seconds": 2.5,
        "reward": 0.5 + 0.01 * step,
        "rewards/accuracy/mean": 0.01 * step,
        "rewards/format_tags/mean": 0.9,
        "completions/mean_length": 40.0 - 0.1 * step,
        "loss": None,
        "rollout/accuracy": 0.01 * step,
        "signal/dead_group_frac": 0.5,
        "signal/dead_after_margin_frac": 0.2,
        "signal/revived_group_frac": 0.3,
        "margin/mean": None if step == 2 else 0.25,
    }


def make_run(path: Path, num_steps: int = 20) -> RunDirectory:
    run = RunDirectory(path)
    path.mkdir(parents=True)
    run.write_recipe({"fields": {"algorithm": "aapo", "margin_low": -0.2}, "note": "<b>bold</b>"})
    run.write_manifest(seed=7, base_model={"name": "tiny"})
    for step in range(1, num_steps + 1):
        run.append_metrics(metrics_row(step))
    return run


def evaluation(
    model: str, corrects: list[list[float | None]], task: str = "sums", completion: str = "2", protocol: str = "aapo@1"
) -> Evaluation:
    """One problem for each list, one sample for each of its values."""
    verdicts = {1.0: "correct", 0.0: "no_answer", None: "unparseable_gold"}
    rows = [
        {
            "model": model,
            "task": task,
            "protocol": protocol,
            "problem": f"problem-{place}",
            "prompt_key": f"key-{place}",
            "sample": sample,
            "prompt": f"\nWhat is 1 + {place}?\nSay it.",
            "gold": str(1 + place),
            "completion": completion,
            "completion_tokens": 12,
            "finish_reason": "length" if model == "base" else "stop",
            "correct": correct,
            "extracted": None,
            "verdict": verdicts[correct],
            "rule": "number" if correct else None,
            "answer_class": sample,
        }
        for place, values in enumerate(corrects)
        for sample, correct in enumerate(values)
    ]
    return Evaluation(pa.Table.from_pylist(rows, pa.schema(list(SAMPLE_COLUMNS.items()))))


def add_evaluation(folder: Path, *evaluations: Evaluation, against: str | None = "base", **options: Any) -> Path:
    others = [item for item in evaluations if item.model == against]
    mine = [item for item in evaluations if item.model != against]
    differences = difference_rows(mine, others) if mine and others else []
    save_results(folder, evaluations, result_rows(evaluations), differences, {"name": "aapo"}, **options)
    return folder


def page_of(folder: Path) -> str:
    return write_report([folder]).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", page).split()))


# 12 problems: trained is right on all, base on the first three.
WEAK = [[1.0, 1.0]] * 3 + [[0.0, 0.0]] * 9
STRONG = [[1.0, 1.0]] * 12


@pytest.mark.parametrize(
    ("base", "trained", "direction", "noise", "tone"),
    [
        (WEAK, STRONG, "75.0 points above", "outside the noise", "better"),
        (STRONG, WEAK, "75.0 points below", "outside the noise", "worse"),
        (WEAK, WEAK, "0.0 points above", "inside the noise", "unclear"),
        (WEAK, [[1.0, 1.0]] * 4 + [[0.0, 0.0]] * 8, "8.3 points above", "inside the noise", "unclear"),
    ],
)
def test_verdict_of_a_run_is_the_paired_difference(tmp_path, base, trained, direction, noise, tone):
    run = make_run(tmp_path / "run", num_steps=1)
    add_evaluation(run.evaluation, evaluation("base", base), evaluation("trained", trained))
    page = page_of(run.path)
    (headline,) = re.findall(r'<meta name="description" content="([^"]*)">', page)
    assert re.fullmatch(rf"trained is {direction} base on sums, 95% interval \[.*\]: {noise}", headline)
    assert re.sub(r"</?span[^>]*>", "", page).count(f"<h2>{headline}</h2>") == 1
    assert "Paired by problem, 12 problems of sums." in page
    assert f'class="verdict {tone}"' in page
    assert text_of(page).count("Difference") == 1


def test_verdict_on_several_pairs_counts_them():
    models = [evaluation("base", WEAK), evaluation("one", STRONG), evaluation("two", WEAK)]
    verdict = judge(result_rows(models), difference_rows(models[1:], models[:1]))
    assert verdict.headline == "Of 2 comparisons: 1 better, 1 inside the noise"
    assert [detail.split(",")[0] for detail in verdict.details] == [
        "one is 75.0 points above base on sums",
        "two is 0.0 points above base on sums",
    ]
    assert verdict.tone == "unclear"


def test_verdict_on_several_tasks_is_about_their_average():
    models = [evaluation(model, WEAK, task) for model in ("base", "trained") for task in ("sums", "words")]
    models[2] = evaluation("trained", STRONG, "sums")
    verdict = judge(result_rows(models), difference_rows(models[2:], models[:2]))
    assert verdict.headline.startswith("trained is 37.5 points above base on average,")
    assert verdict.details[0].startswith("Paired by problem, 24 problems over all tasks.")
    assert [detail.split(",")[0] for detail in verdict.details[1:]] == [
        "trained is 75.0 points above base on sums",
        "trained is 0.0 points above base on words",
    ]


def test_one_model_alone_is_no_comparison(tmp_path):
    folder = add_evaluation(tmp_path / "alone", evaluation("tiny", WEAK))
    page = page_of(folder)
    assert "<h1>Evaluation alone</h1>" in page
    assert "tiny: 25.0% [" in text_of(page).replace("25.0% [", "25.0% [")
    assert "Only one model was evaluated: nothing to compare." in page
    assert sorted(file.name for file in (folder / "figures").iterdir()) == ["evaluation.png", "evaluation.svg"]


def test_nothing_scored_is_said(tmp_path):
    page = page_of(add_evaluation(tmp_path / "none", evaluation("tiny", [[None, None]])))
    assert "<h2>Nothing could be scored</h2>" in page
    assert "<svg" not in page


def test_without_evaluation_the_page_says_so(tmp_path):
    page = page_of(make_run(tmp_path / "run").path)
    assert "<h2>Not evaluated yet</h2>" in page
    assert "Problems and answers" not in page
    assert "<h3>Training</h3>" in page


def test_later_evaluations_of_a_run_are_sections_of_its_report(tmp_path):
    run = make_run(tmp_path / "run", num_steps=1)
    add_evaluation(run.evaluation, evaluation("base", WEAK), evaluation("trained", STRONG))
    add_evaluation(run.evaluation / "paper-1234", evaluation("run@40", WEAK, "aime24"), against=None)
    page = page_of(run.path)
    assert page.index("Evaluation: Held-out problems") < page.index("Evaluation: paper-1234") < page.index("aime24")
    assert sorted(file.name for file in run.figures.glob("*.png")) == ["evaluation-paper-1234.png", "evaluation.png"]
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_best_score_is_bold_only_outside_the_noise(tmp_path):
    models = [evaluation("base", WEAK), evaluation("one", STRONG), evaluation("two", STRONG)]
    assert clear_leaders(models) == set()
    assert clear_leaders(models[:2]) == {("one", "sums")}
    page = page_of(add_evaluation(tmp_path / "all", *models))
    assert "number strong" not in page
    page = page_of(add_evaluation(tmp_path / "two", *models[:2]))
    assert page.count("number strong") == 1
    assert "Bold: above every other model" in page
    other = [evaluation(item.model, WEAK, "words") for item in models[:2]]
    assert clear_leaders([*models[:2], *other]) == {("one", "sums"), ("one", "average")}


def test_notes_published_rows_and_mixed_protocols_stand_under_the_table(tmp_path):
    models = [evaluation("base", WEAK, "aime24"), evaluation("one", STRONG, "aime24", protocol="mine@2")]
    folder = add_evaluation(tmp_path / "e", *models, notes=["one was selected on the test"], published="Qwen 1.5B")
    text = text_of(page_of(folder))
    assert "one was selected on the test" in text
    assert "PROTOCOLS ARE MIXED" in text
    assert "(paper)" in text


def test_results_written_anew_leave_no_older_samples(tmp_path):
    add_evaluation(tmp_path / "e", evaluation("outdated", WEAK), evaluation("base", WEAK))
    page = page_of(add_evaluation(tmp_path / "e", evaluation("new", STRONG)))
    assert "outdated" not in page


@pytest.mark.parametrize("num_steps", [0, 1])
def test_no_curve_below_two_steps(tmp_path, num_steps):
    run = make_run(tmp_path / "run", num_steps=num_steps)
    page = page_of(run.path)
    assert list(run.figures.iterdir()) == []
    assert "<svg" not in page
    assert f"optimizer steps <strong>{num_steps}</strong>" in page


def test_figures_are_png_and_svg_files(tmp_path):
    run = make_run(tmp_path / "run")
    add_evaluation(run.evaluation, evaluation("base", WEAK), evaluation("trained", STRONG))
    run.figures.mkdir()
    (run.figures / "stale.png").touch()
    page_of(run.path)
    files = {file.name: file.read_bytes() for file in run.figures.iterdir()}
    assert sorted(files) == sorted(f"{name}.{kind}" for name in ["evaluation", *CURVES] for kind in ("png", "svg"))
    for name, content in files.items():
        assert content.startswith(b"\x89PNG\r\n" if name.endswith("png") else b"<?xml")


def test_dead_groups_need_both_shares():
    rows = [{"step": step, "reward": 1.0, "signal/dead_group_frac": 0.5} for step in (1, 2, 3)]
    assert [figure.name for figure in draw_curves(rows)] == ["reward"]


def test_short_runs_name_the_lines_and_skip_steps_without_a_value():
    rows = [metrics_row(step) for step in (1, 2, 3)]
    rows[1]["signal/dead_after_margin_frac"] = float("nan")
    (figure,) = [figure for figure in draw_curves(rows) if figure.name == "dead_groups"]
    markup = figure.svg("x")
    assert "before the margin" in markup and "after the margin" in markup
    assert figure.caption.endswith("on average: each step.")


def test_dead_groups_caption_states_what_the_margin_revived():
    figures = {figure.name: figure for figure in draw_curves([metrics_row(step) for step in range(1, 21)])}
    assert "30.0% of all groups on average" in figures["dead_groups"].caption
    assert "50.0% of groups are dead before the margin and 20.0% after it" in figures["dead_groups"].alt
    assert "moving average over 3 steps" in figures["reward"].caption
    assert "Line chart of format reward over steps 1 to 20" in figures["overview"].alt


def test_names_in_figures_are_text_and_not_formulas():
    figure = draw_scores(result_rows([evaluation("m $ <i>", WEAK, "a $ <b>")]))
    assert figure
    assert "a $ &lt;b&gt;" in figure.svg("x")
    assert "m $ &lt;i&gt;" in figure.svg("x")
    assert "m $ <i> 25.0%" in figure.alt


def test_model_output_is_text_only(tmp_path):
    run = make_run(tmp_path / "run")
    pair = [
        evaluation(model, corrects, "<i>task</i>", HOSTILE)
        for model, corrects in (("base", [[0.0], [0.0]]), ("trained", [[1.0], [0.0]]))
    ]
    add_evaluation(run.evaluation, *pair)
    page = page_of(run.path)
    assert page.count(html.escape(HOSTILE)) == 4
    without_ours = re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.DOTALL)
    assert without_ours.count("<script") == 0
    assert not re.search(r"<(img|i|b)\b", page)
    assert "margin_low: -0.2" in page and "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "base_model:\n  name: tiny" in page


def test_page_loads_nothing_and_its_links_resolve(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        add_evaluation(
            run.evaluation, evaluation("base", WEAK), evaluation("trained", STRONG, completion="https://x.y")
        )
    page = write_report([run.path for run in runs], tmp_path / "both.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!["']?#)|url\((?!#)|@import""", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\(|data-filters=")#?([^")]+)', page)) <= set(ids)


def test_problems_come_by_falling_difference_with_their_marks(tmp_path):
    base: list[list[float | None]] = [[0.0, 1.0], [1.0, 1.0], [None, None], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    trained: list[list[float | None]] = [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    pair = [evaluation("base", base), evaluation("trained", trained)]
    (task,) = task_problems(pair)
    assert task.outcomes == [("base", 1), ("trained", 2), ("level", 3)]
    assert {problem.gold for problem in task.problems[:2]} == {"5", "6"}  # a whole point apart
    assert task.problems[2].gold == "1"  # half a point
    assert {problem.ahead for problem in task.problems[3:]} == {None}
    first = next(problem for problem in task.problems if problem.gold == "1")
    assert [(answers.model, answers.num_right, answers.num_scored) for answers in first.answers] == [
        ("base", 1, 2),
        ("trained", 2, 2),
    ]
    assert [sample.mark for sample in first.answers[0].samples] == ["wrong", "right"]
    assert [sample.why for sample in first.answers[0].samples] == ["no answer", "correct, by number"]
    assert len(first.answers[1].samples) == 1
    page = page_of(add_evaluation(tmp_path / "e", *pair))
    assert "Of 6 problems base is ahead on 1, trained is ahead on 2, no model is alone ahead on 3." in page
    assert '<span class="question" dir="auto">What is 1 + 4?</span>' in page
    assert "12 tokens, cut at the token limit" in page


def test_one_models_problems_come_by_the_disagreement_of_its_samples():
    (task,) = task_problems([evaluation("tiny", [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])])
    assert task.problems[0].gold == "2"
    assert task.outcomes == []


def test_page_of_many_long_completions_stays_small(tmp_path):
    tasks = [f"task-{place}" for place in range(8)]
    halves: list[list[float | None]] = [[0.0, 1.0]] * 60
    items = [evaluation(model, halves, task, completion="x" * 9000) for model in ("base", "trained") for task in tasks]
    assert sum(len(task.problems) for task in task_problems(items)) == 8 * 40
    assert characters_shown(task_problems(items)) == 750
    page = page_of(add_evaluation(tmp_path / "e", *items))
    assert len(page) < 5_000_000
    assert "… (8250 more characters)" in page


def test_signal_table_gives_mean_last_value_and_meaning(tmp_path):
    page = page_of(make_run(tmp_path / "run", num_steps=3).path)
    assert '<code>rollout/accuracy</code></th><td class="number">2.0%</td><td class="number">3.0%</td>' in page
    assert '<code>margin/mean</code></th><td class="number">0.250</td><td class="number">0.250</td>' in page
    assert "Dead groups to which the margin gives a gradient." in page


def test_several_folders_need_an_output_and_get_a_summary(tmp_path):
    run = make_run(tmp_path / "a" / "run")
    other = add_evaluation(tmp_path / "b" / "run", evaluation("base", WEAK), evaluation("trained", STRONG))
    with pytest.raises(InputError, match="--output"):
        write_report([run.path, other])
    output = tmp_path / "both.html"
    assert write_report([run.path, other], output) == output
    page = output.read_text(encoding="utf-8")
    assert "<h1>2 results</h1>" in page
    assert f'<a href="#part-2">{other}</a></th><td>trained is 75.0 points above base' in page
    assert page.index('href="#part-2"') < page.index('id="part-1"') < page.index('id="part-2"')
    assert (run.figures / "reward.png").exists()


def test_folder_of_no_known_kind_is_refused(tmp_path):
    kinds = r"summary.json \(comparison\), recipe.yaml \(run\), results.json \(evaluation\)"
    with pytest.raises(InputError, match=f"has none of {kinds}"):
        write_report([tmp_path])


def test_series_skips_null_and_nan():
    rows = [
        {"step": 1, "x": 1.0},
        {"step": 2, "x": None},
        {"step": 3},
        {"step": 4, "x": float("nan")},
        {"step": 5, "x": 3},
    ]
    assert read_series(rows, "x") == ([1, 5], [1.0, 3.0])


def test_smoothing_is_a_centred_mean_that_shrinks_at_the_ends():
    smoothed = smooth([float(value) for value in range(16)])
    assert smoothed.window == 3
    assert smoothed.values[0] == pytest.approx((0 + 1) / 2)
    assert smoothed.values[5] == pytest.approx((4 + 5 + 6) / 3)
    assert smoothed.values[15] == pytest.approx((14 + 15) / 2)
    assert smooth([1.0, 5.0]) == ([1.0, 5.0], 1)
