"""The report of synthetic runs: what it says, what it escapes, and what it does without data."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from aapo.errors import InputError
from aapo.files import write_json, write_parquet
from aapo.reporting import write_report
from aapo.reporting.comparison import Change, Comparison, Estimate, judge
from aapo.reporting.completions import Outcomes, read_side_by_side
from aapo.reporting.figures import draw_evaluation, draw_figures
from aapo.reporting.series import read_series, smooth
from aapo.runs import RunDirectory

HOSTILE = "<script>alert(1)</script></pre><img src=x onerror=alert(2)>{{ 7 * 7 }}"
ALL_FIGURES = ["evaluation", "reward", "accuracy", "completion_length", "dead_groups", "overview"]
LOW = Estimate(0.312, 0.28, 0.345, 200, 4)
HIGH = Estimate(0.789, 0.761, 0.815, 200, 4)
NEAR_HIGH = Estimate(0.76, 0.73, 0.79, 200, 4)


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
    run.write_recipe({"algorithm": "aapo", "margin_low": -0.2, "note": "<b>bold</b>"})
    write_json(run.manifest_file, {"seed": 7, "base_model": {"name": "tiny"}})
    for step in range(1, num_steps + 1):
        run.append_metrics(metrics_row(step))
    return run


def add_summary(run: RunDirectory, base: Estimate, trained: Estimate, task: str = "addition") -> None:
    names = ("estimate", "low", "high", "num_problems", "num_samples")
    rows = [
        {"model": model, "task": task, "metric": "avg@4", **dict(zip(names, estimate, strict=True))}
        for model, estimate in (("base", base), ("trained", trained))
    ]
    write_json(run.evaluation / "results.json", rows)


def add_completions(run: RunDirectory, corrects: dict[str, list[float | None]], completion: str = "2") -> None:
    """One problem for each place of the lists, one sample each."""
    for model, values in corrects.items():
        rows = [
            {
                "task": "addition",
                "prompt_key": f"key-{place}",
                "sample": 0,
                "prompt": f"What is 1 + {place}?",
                "gold": str(1 + place),
                "completion": completion,
                "completion_tokens": 12,
                "finish_reason": "length" if model == "base" else "stop",
                "correct": correct,
                "verdict": {1.0: "correct", 0.0: "no_answer", None: "unparseable_gold"}[correct],
                "rule": "number" if correct else None,
            }
            for place, correct in enumerate(values)
        ]
        write_parquet(run.evaluation / "samples" / f"{model}--addition.parquet", pa.Table.from_pylist(rows))


def page_of(run: RunDirectory) -> str:
    return write_report([run]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("base", "trained", "headline", "reading", "points", "tone"),
    [
        (
            LOW,
            HIGH,
            "Held-out accuracy rose from 31.2% [28.0, 34.5] to 78.9% [76.1, 81.5], outside the noise",
            "The 95% intervals are disjoint.",
            "+47.7",
            "better",
        ),
        (
            HIGH,
            LOW,
            "Held-out accuracy fell from 78.9% [76.1, 81.5] to 31.2% [28.0, 34.5], outside the noise",
            "The 95% intervals are disjoint.",
            "-47.7",
            "worse",
        ),
        (
            NEAR_HIGH,
            HIGH,
            "Held-out accuracy rose from 76.0% [73.0, 79.0] to 78.9% [76.1, 81.5], inside the noise",
            "The 95% intervals overlap",
            "+2.9",
            "unclear",
        ),
        (
            HIGH,
            HIGH,
            "Held-out accuracy stayed level from 78.9% [76.1, 81.5] to 78.9% [76.1, 81.5], inside the noise",
            "The 95% intervals overlap",
            "+0.0",
            "unclear",
        ),
    ],
)
def test_verdict_says_what_the_intervals_say(tmp_path, base, trained, headline, reading, points, tone):
    run = make_run(tmp_path / "run", num_steps=1)
    add_summary(run, base, trained)
    page = page_of(run)
    assert f'<meta name="description" content="{headline}">' in page
    assert re.sub(r"</?span[^>]*>", "", page).count(f"<h2>{headline}</h2>") == 1
    assert f"addition: 200 problems, 4 samples each (avg@4). {reading}" in page
    assert f'<td class="number">{points}</td>' in page
    assert f'class="verdict {tone}"' in page


def test_touching_intervals_are_inside_the_noise():
    assert not Change("t", "avg@1", Estimate(0.2, 0.1, 0.3, 9, 1), Estimate(0.4, 0.3, 0.5, 9, 1)).outside_noise


def test_verdict_on_several_tasks_counts_and_lists_them():
    rows = [
        Comparison("a", "avg@4", LOW, HIGH),
        Comparison("b", "avg@4", HIGH, LOW),
        Comparison("c", "avg@4", HIGH, NEAR_HIGH),
    ]
    verdict = judge(rows)
    assert verdict.headline == (
        "Held-out accuracy rose on 1 and fell on 1 of 3 measurements, outside the noise; 1 is inside it"
    )
    assert [detail[:2] for detail in verdict.details] == ["a:", "b:", "c:"]
    assert verdict.tone == "unclear"
    assert judge(rows[:1] + rows[2:]).tone == "better"
    assert (
        judge([rows[2], rows[2]]).headline == "Held-out accuracy changed inside the noise only, on all 2 measurements"
    )


def test_mean_accuracy_decides_where_it_was_measured():
    rows = [Comparison("a", "pass@4", HIGH, LOW), Comparison("a", "avg@4", LOW, HIGH)]
    assert judge(rows).headline.startswith("Held-out accuracy rose")
    assert judge(rows[:1]).headline.startswith("Held-out pass@4 fell")


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_one_model_alone_is_no_comparison(tmp_path, missing):
    run = make_run(tmp_path / "run")
    add_summary(run, LOW, HIGH)
    rows = json.loads((run.evaluation / "results.json").read_text())
    rows[0]["estimate"] = missing
    write_json(run.evaluation / "results.json", rows)
    page = page_of(run)
    assert "nothing to compare" in page
    assert "the trained model reaches" in page
    assert (run.figures / "evaluation.png").exists()


def test_without_evaluation_the_page_says_so(tmp_path):
    page = page_of(make_run(tmp_path / "run"))
    assert "<h2>Not evaluated yet</h2>" in page
    assert "<h3>Evaluation</h3>" not in page
    assert "Completions before and after" not in page
    assert "<h3>Training</h3>" in page


@pytest.mark.parametrize("num_steps", [0, 1])
def test_no_curve_below_two_steps(tmp_path, num_steps):
    run = make_run(tmp_path / "run", num_steps=num_steps)
    page = page_of(run)
    assert list(run.figures.iterdir()) == []
    assert "<svg" not in page
    assert f"optimizer steps <strong>{num_steps}</strong>" in page


def test_figures_are_png_files(tmp_path):
    run = make_run(tmp_path / "run")
    add_summary(run, LOW, HIGH)
    run.figures.mkdir()
    (run.figures / "stale.png").touch()
    page_of(run)
    files = {file.name: file.read_bytes() for file in run.figures.iterdir()}
    assert sorted(files) == sorted(f"{name}.png" for name in ALL_FIGURES)
    assert all(content.startswith(b"\x89PNG\r\n") for content in files.values())


def test_dead_groups_need_both_shares():
    rows = [{"step": step, "reward": 1.0, "signal/dead_group_frac": 0.5} for step in (1, 2, 3)]
    assert [figure.name for figure in draw_figures(rows, [])] == ["reward"]


def test_short_runs_name_the_lines_and_skip_steps_without_a_value():
    rows = [metrics_row(step) for step in (1, 2, 3)]
    rows[1]["signal/dead_after_margin_frac"] = float("nan")
    (figure,) = [figure for figure in draw_figures(rows, []) if figure.name == "dead_groups"]
    markup = figure.svg("x")
    assert "before the margin" in markup and "after the margin" in markup
    assert figure.caption.endswith("on average: each step.")


def test_dead_groups_caption_states_what_the_margin_revived():
    figures = {figure.name: figure for figure in draw_figures([metrics_row(step) for step in range(1, 21)], [])}
    assert "30.0% of all groups on average" in figures["dead_groups"].caption
    assert "50.0% of groups are dead before the margin and 20.0% after it" in figures["dead_groups"].alt
    assert "moving average over 3 steps" in figures["reward"].caption
    assert "Line chart of format reward over steps 1 to 20" in figures["overview"].alt


def test_names_in_figures_are_text_and_not_formulas():
    figure = draw_evaluation([Comparison("a $ <b>", "avg@4", LOW, HIGH)])
    assert figure
    assert "a $ &lt;b&gt;" in figure.svg("x")


def test_model_output_is_text_only(tmp_path):
    run = make_run(tmp_path / "run")
    add_summary(run, LOW, HIGH, task="<i>task</i>")
    add_completions(run, {"base": [0.0], "trained": [1.0]}, completion=HOSTILE)
    page = page_of(run)
    assert page.count(html.escape(HOSTILE)) == 2
    assert not re.search(r"<(script|img|i|b)\b", page)
    assert "margin_low: -0.2" in page and "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "base_model:\n  name: tiny" in page


def test_page_loads_nothing_and_its_links_resolve(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        add_summary(run, LOW, HIGH)
        add_completions(run, {"base": [0.0], "trained": [1.0]}, completion="see https://example.com")
    page = write_report(runs, tmp_path / "both.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!["']?#)|url\((?!#)|@import""", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_completions_are_paired_by_problem_with_their_marks(tmp_path):
    run = make_run(tmp_path / "run")
    base: list[float | None] = [0.0, 1.0, None, 0.0, 0.0, 1.0, 0.0]
    trained: list[float | None] = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    add_completions(run, {"base": base, "trained": trained})
    found = read_side_by_side(run)
    assert found
    marks = [(pair.base.mark, pair.trained.mark) for pair in found.pairs]
    assert marks == [
        ("wrong", "right"),
        ("right", "right"),
        ("not gradable", "right"),
        ("wrong", "wrong"),
        ("wrong", "right"),
    ]
    whys = [(pair.base.why, pair.trained.why) for pair in found.pairs[:3]]
    assert whys == [
        ("no answer", "correct, by number"),
        ("correct, by number", "correct, by number"),
        ("unparseable gold", "correct, by number"),
    ]
    assert [pair.prompt for pair in found.losses] == ["What is 1 + 5?"]
    assert found.outcomes == Outcomes(num_better=3, num_worse=1, num_same=2)
    page = page_of(run)
    assert "Of 6 held-out problems the trained model scores better on 3, worse on\n1 and the same on 2." in page
    assert "12 tokens, cut at the token limit" in page


def test_signal_table_gives_mean_last_value_and_meaning(tmp_path):
    page = page_of(make_run(tmp_path / "run", num_steps=3))
    assert '<code>rollout/accuracy</code></th><td class="number">2.0%</td><td class="number">3.0%</td>' in page
    assert '<code>margin/mean</code></th><td class="number">0.250</td><td class="number">0.250</td>' in page
    assert "Dead groups to which the margin gives a gradient." in page


def test_several_runs_need_an_output(tmp_path):
    runs = [make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")]
    with pytest.raises(InputError, match="--output"):
        write_report(runs)
    add_summary(runs[0], LOW, HIGH)
    output = tmp_path / "both.html"
    assert write_report(runs, output) == output
    page = output.read_text(encoding="utf-8")
    assert "<h1>2 runs</h1>" in page
    assert page.index("Held-out accuracy of every run") < page.index('id="run-1"') < page.index('id="run-2"')
    assert f'<a href="#run-2">{runs[1].path}</a></th><td colspan="6">not evaluated</td>' in page
    assert (runs[1].figures / "reward.png").exists()


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
