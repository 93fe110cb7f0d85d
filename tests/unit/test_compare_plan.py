"""Comparisons by a plan file: what is read and refused, its record, tuned settings, and a summary after Ctrl-C."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from aapo.cli.app import run
from aapo.errors import InputError
from aapo.experiments import choose, read_plan, register, write_plan, write_summary
from aapo.experiments.plan import Variant
from aapo.experiments.registration import read_record
from aapo.reporting.costs import draw_over_tokens
from finished import finish

RECIPE = {
    "model_name_or_path": "tiny", "dataset_name": "reasoning_gym:basic_arithmetic", "num_train_prompts": 16,
    "num_eval_prompts": 8, "algorithm": "aapo", "num_generations": 4, "per_device_train_batch_size": 16,
    "max_steps": 10, "bf16": False, "use_cpu": True,
}  # fmt: skip
PLAN = {
    "recipe": "mine.yaml", "question": "Which?", "algorithms": ["grpo", {"algorithm": "aapo", "margin": "scaled"}],
    "seeds": [0, 1], "match": "tokens", "budget": 5000, "settings": {"temperature": 0.9},
    "grid": {"learning_rate": [1e-4, 2e-4]}, "tuning_seeds": [7],
}  # fmt: skip


@pytest.fixture
def plan_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    return write(tmp_path / "plan.yaml")


def write(path, **changes):
    path.write_text(yaml.safe_dump({key: value for key, value in {**PLAN, **changes}.items() if value is not None}))
    return path


def test_a_plan_makes_the_runs_that_tune_and_those_that_are_compared(plan_file, tmp_path):
    registered = read_plan(str(plan_file))
    assert registered is not None
    tuning = registered.tuning(tmp_path / "out")
    assert [(item.variant.label, item.seed) for item in tuning.runs] == [
        ("grpo learning_rate=0.0001", 7), ("grpo learning_rate=0.0002", 7),
        ("aapo margin=scaled learning_rate=0.0001", 7), ("aapo margin=scaled learning_rate=0.0002", 7),
    ]  # fmt: skip
    assert tuning.runs[0].recipe.training.eval_strategy == "no"
    tuned = [Variant(v.algorithm, v.settings, {"learning_rate": 2e-4}) for v in registered.plan.variants]
    plan = registered.comparison(tmp_path / "out", tuned)
    assert [(item.variant.label, item.seed) for item in plan.runs] == [
        ("grpo", 0), ("aapo margin=scaled", 0), ("grpo", 1), ("aapo margin=scaled", 1),
    ]  # fmt: skip
    recipe = plan.runs[1].recipe
    assert (recipe.trainer["learning_rate"], recipe.training.temperature) == (2e-4, 0.9)
    assert recipe.training.objective.margin == "scaled" and recipe.run.max_generated_tokens == 5000
    assert plan.bank_share == 1 and recipe.run.bank_cost_share == 1  # the whole bank, unless the plan says otherwise


def test_a_recipe_is_no_plan(plan_file, tmp_path):
    assert read_plan(str(tmp_path / "mine.yaml")) is None and read_plan("quickstart") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tuning_seeds": None}, "grid and tuning_seeds go together"),
        ({"tuning_seeds": [1, 2]}, "tuning_seeds holds 1, which is one of the seeds"),
        ({"grid": {"learning_rate": 1e-4}}, "grid.learning_rate is 0.0001; it must be a list of values"),
        ({"seeds": None}, "has no seeds; add it"),
        ({"budgett": 3}, "unknown field 'plan: budgett' (did you mean budget?)"),
        ({"match": "token"}, "plan: match is 'token' (did you mean tokens?); it must be one of steps, tokens, seconds"),
        (
            {"algorithms": [{"margin": "scaled"}]},
            "algorithms holds {'margin': 'scaled'}; it must hold names, or mappings",
        ),
        ({"algorithms": ["grpo", "grpo"]}, "name each algorithm once"),
        (
            {"algorithms": [{"algorithm": "grpo", "margin_high": 1.0}]},
            "grpo margin_high=1.0: margin_high has no effect",
        ),
        ({"algorithms": [{"algorithm": "aapo", "seed": 3}]}, "aapo seed=3: seed has no effect there"),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(plan_file, tmp_path, capsys, changes, words):
    write(plan_file, **changes)
    assert run(["compare", str(plan_file), "--output", "out"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line, line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given", [("--seeds", "3"), ("--algorithms", "aapo"), ("--learning_rate", "1"), ("--budget", "9")]
)
def test_what_a_plan_fixes_cannot_be_given(plan_file, capsys, given):
    assert run(["compare", str(plan_file), *given]) == 2
    assert f"{given[0]} cannot be given with a plan, because {plan_file} fixes it" in capsys.readouterr().err


def test_algorithms_are_asked_for_where_there_is_no_plan(plan_file, capsys):
    assert run(["compare", "mine.yaml"]) == 2
    assert "--algorithms is missing; name some, such as aapo,grpo, or give a plan file" in capsys.readouterr().err


def test_the_hash_of_the_plan_stands_in_the_summary_and_a_later_change_too(plan_file, tmp_path):
    folder, registered = tmp_path / "out", read_plan(str(plan_file))
    assert registered is not None
    register(folder, registered)
    register(folder, registered)  # once
    plan = registered.comparison(folder, registered.plan.variants)
    write_plan(plan)
    for item in plan.runs:
        finish(item.path, np.full(8, 0.5))
    first = hashlib.sha256(plan_file.read_bytes()).hexdigest()
    summary = write_summary(folder)["plan"]
    assert (summary["sha256"], summary["changed_after_start"], len(summary["plans"])) == (first, False, 1)
    assert (folder / "plans" / f"{first[:12]}.yaml").read_bytes() == plan_file.read_bytes()
    write(plan_file, question="Which else?")
    changed = read_plan(str(plan_file))
    assert changed is not None and changed.sha256 != first
    register(folder, changed)
    summary = write_summary(folder)["plan"]
    assert (summary["sha256"], summary["changed_after_start"]) == (first, True)
    assert [item["runs_begun"] for item in summary["plans"]] == [0, 4]


def test_a_damaged_record_is_named(plan_file, tmp_path):
    folder, registered = tmp_path / "out", read_plan(str(plan_file))
    assert registered is not None
    register(folder, registered)
    (folder / "registration.json").write_text('{"plans": [')
    with pytest.raises(InputError, match=r"registration.json is damaged .*; copy the folder anew"):
        register(folder, registered)


def test_the_best_of_the_grid_is_chosen_and_of_equals_the_first(plan_file, tmp_path):
    registered = read_plan(str(write(plan_file, grid={"learning_rate": [1e-4, 2e-4, 4e-4]}, tuning_seeds=[7, 8])))
    assert registered is not None
    plan = registered.tuning(tmp_path / "out")
    # Means over two seeds; the best single score and a run that is missing do not count.
    scores = {
        "grpo learning_rate=0.0001": (0.25, 0.75), "grpo learning_rate=0.0002": (0.5, 0.5),
        "grpo learning_rate=0.0004": (1.0, None), "aapo margin=scaled learning_rate=0.0001": (0.25, 0.25),
        "aapo margin=scaled learning_rate=0.0002": (0.0, 1.0), "aapo margin=scaled learning_rate=0.0004": (0.25, 0.5),
    }  # fmt: skip
    for item in plan.runs:
        if (score := scores[item.variant.label][item.seed - 7]) is not None:
            finish(item.path, np.full(8, score))
    grpo, scaled = choose(plan, registered.plan.variants, registered.plan.grid or {})
    assert (grpo.chosen.label, grpo.chosen.tuned) == ("grpo", {"learning_rate": 1e-4})
    assert grpo.scores == {"grpo learning_rate=0.0001": 0.5, "grpo learning_rate=0.0002": 0.5}
    assert (scaled.chosen.label, scaled.chosen.tuned) == ("aapo margin=scaled", {"learning_rate": 2e-4})


@pytest.fixture
def finishing(monkeypatch):
    """In place of training: runs end at once, better with a higher learning rate; `stop` says after how many."""
    stop: dict[str, int] = {}

    def execute(plan, jobs, devices):
        for place, item in enumerate(plan.runs):
            if place == stop.get(plan.folder.name):
                raise KeyboardInterrupt("SIGTERM")
            if not item.done:
                finish(item.path, np.full(8, 0.25 if item.recipe.trainer["learning_rate"] < 2e-4 else 0.75))
        return []

    monkeypatch.setattr("aapo.cli.comparing.execute", execute)
    monkeypatch.setattr("aapo.cli.comparing.prepare", lambda plan: None)
    monkeypatch.setattr("aapo.cli.comparing.write_report", lambda folders: folders[0] / "report.html")
    return stop


def test_compare_tunes_then_compares_and_says_what_was_tried(plan_file, tmp_path, finishing, capsys):
    assert run(["compare", str(plan_file), "--output", "out"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "grpo: learning_rate=0.0002 (grpo learning_rate=0.0001 25.0%, grpo learning_rate=0.0002 75.0%)" in out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(row["label"], row["tuned"]) for row in summary["variants"]] == [
        ("grpo", {"learning_rate": 2e-4}), ("aapo margin=scaled", {"learning_rate": 2e-4}),
    ]  # fmt: skip
    tuning = summary["tuning"]
    assert (tuning["configurations"], tuning["runs"], tuning["seeds"]) == (4, 4, [7])
    assert not summary["plan"]["changed_after_start"] and summary["plan"]["plans"][0]["runs_begun"] == 0
    assert "4 configurations were tried for 2 algorithms (learning_rate of 0.0001, 0.0002), in 4 runs with seed" in out
    assert f"Plan plan.yaml, sha256 {summary['plan']['sha256']}" in out and "before the first run; not changed" in out
    # What was chosen holds, whatever becomes of the runs that chose it.
    for file in (tmp_path / "out" / "tuning" / "runs").glob("*/seed-7/evaluation/results.json"):
        file.unlink()
    assert run(["compare", str(plan_file), "--output", "out"]) == 0


def test_what_was_chosen_holds_where_an_algorithm_joins_later(plan_file, tmp_path, finishing):
    write(plan_file, algorithms=["grpo"])
    assert run(["compare", str(plan_file), "--output", "out"]) == 0
    # Chosen anew it would now be the other rate, and the runs of the comparison have the first.
    retried = tmp_path / "out" / "tuning" / "runs" / "grpo,learning_rate=0.0001" / "seed-7"
    shutil.rmtree(retried)
    finish(retried, np.full(8, 1.0))
    write(plan_file, algorithms=["grpo", "dr_grpo"])
    assert run(["compare", str(plan_file), "--output", "out"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(row["label"], row["tuned"]["learning_rate"]) for row in summary["variants"]] == [
        ("grpo", 2e-4), ("dr_grpo", 2e-4),
    ]  # fmt: skip
    assert (summary["tuning"]["configurations"], summary["tuning"]["runs"]) == (4, 4)
    assert [choice["label"] for choice in summary["tuning"]["choices"]] == ["grpo", "dr_grpo"]
    assert summary["plan"]["changed_after_start"]


@pytest.mark.parametrize(("budget", "short"), [(1010, False), (5000, True)])
def test_runs_that_end_before_the_budget_are_named(plan_file, tmp_path, finishing, capsys, budget, short):
    write(plan_file, budget=budget)
    assert run(["compare", str(plan_file), "--output", "out"]) == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text())["short"]
    runs = [f"runs/{label}/seed-{seed}" for label in ("grpo", "aapo,margin=scaled") for seed in (0, 1)]
    assert found == [{"run": name, "end": 1000.0} for name in runs if short]  # of the 1,000 tokens of the finished runs
    told = " ".join(capsys.readouterr().out.split())
    assert ("NOT MATCHED: 4 runs ended before 5,000 tokens (grpo/seed-0 at 1,000, " in told) == short
    assert ("NOT MATCHED" in told) == short


def test_an_interruption_leaves_a_summary_of_what_is_finished(plan_file, tmp_path, finishing, capsys):
    finishing["out"] = 3
    assert run(["compare", str(plan_file), "--output", "out"]) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("aapo: stopped by SIGTERM; 3 of 4 runs are finished, missing: aapo margin=scaled seed 1; th")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["missing"] == [{"run": "runs/aapo,margin=scaled/seed-1", "step": 0}]
    told = " ".join(shown.out.split())
    assert "Incomplete: 1 planned runs are missing (aapo,margin=scaled/seed-1, not begun)" in told
    del finishing["out"]
    assert run(["compare", str(plan_file), "--output", "out"]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["missing"] == []


def test_an_interruption_before_a_run_is_finished_is_one_line(plan_file, tmp_path, finishing, capsys):
    finishing["tuning"] = 0
    assert run(["compare", str(plan_file), "--output", "out"]) == 1
    assert "stopped by SIGTERM; none of 4 runs is finished; the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "out" / "comparison.json").exists() and read_record(tmp_path / "out")["plans"]


def test_a_dry_run_lists_both_kinds_of_runs_and_writes_nothing(plan_file, tmp_path, capsys):
    assert run(["compare", str(plan_file), "--output", "out", "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "4 runs of mine, matched by tokens (5000): runs/grpo,learning_rate=0.0001/seed-7: to do" in out
    assert "then, with what they choose, 4 runs with seeds 0, 1:" in out
    assert not (tmp_path / "out").exists()


def over_tokens(num_variants, tokens=(0.0, 100.0)):
    curve = {"seed": 0, "tokens": list(tokens), "scores": [0.1, 0.2][: len(tokens)], "end_tokens": 200.0}
    mean = {"estimate": 0.4}
    variant = {"curves": [curve] * 2, "final": {"scores": [0.3, 0.5], "mean": mean}}
    variants = [{**variant, "label": f"v{i}"} for i in range(num_variants)]
    return draw_over_tokens({"task": "sums", "bank_share": 1.0, "variants": variants})


def test_curves_over_tokens_end_with_the_final_evaluation():
    drawn = over_tokens(2)
    assert drawn is not None and drawn.for_paper
    (axes,) = drawn.figure.axes
    assert axes.get_xlabel() == "completion tokens, reference samples included"
    for line in axes.get_lines():
        assert line.get_xydata().tolist() == pytest.approx(np.array([[0, 0.1], [100, 0.2], [200, 0.4]]))
    assert over_tokens(2, tokens=(0.0,)) is None


def test_many_variants_have_a_panel_each_beside_the_first():
    drawn = over_tokens(6)
    assert drawn is not None
    shown = [axes for axes in drawn.figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["v1", "v2", "v3", "v4", "v5"]
    assert all([line.get_label() for line in axes.get_lines()] == ["v0", axes.get_title(loc="left")] for axes in shown)


COMPARISONS = Path(__file__).parents[2] / "benchmarks" / "comparisons"


@pytest.mark.parametrize("name", ["margins_addition", "margins_mix"])
def test_the_plans_that_are_kept_here_make_their_runs(tmp_path, name):
    registered = read_plan(str(COMPARISONS / f"{name}.yaml"))
    assert registered is not None and registered.plan.question and registered.plan.primary and registered.plan.stopping
    tuning = registered.tuning(tmp_path / "out")
    plan = registered.comparison(tmp_path / "out", registered.plan.variants)
    assert len(tuning.runs) == 6 * len(plan.variants) and len(plan.runs) == 8 * len(plan.variants)
    assert f"{len(tuning.runs)} that tune, {len(plan.runs)} that are compared" in registered.text
    assert plan.variants[0].label == "grpo" and plan.bank_share == 1
    assert all(item.recipe.run.reward_funcs == ["accuracy"] for item in plan.runs)


def test_a_plan_that_is_not_yaml_is_one_line(tmp_path):
    (tmp_path / "plan.yaml").write_text("recipe: [")
    with pytest.raises(InputError, match="is not valid YAML"):
        read_plan(str(tmp_path / "plan.yaml"))
