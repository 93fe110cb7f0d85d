"""Comparisons without training: plans, the queue with a stand-in for the runs' command, summaries and their report."""

import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from aapo.backends.trl.recorder import Budget, Spent
from aapo.errors import InputError
from aapo.experiments import execute, make_plan, write_plan, write_summary
from aapo.experiments.plan import Variant
from aapo.experiments.summary import FinishedRun, Group, _pair
from aapo.reporting import write_report
from aapo.reporting.bands import band
from aapo.reporting.comparison import judge, verdict_sentences
from aapo.runs import RunDirectory
from finished import finish

RECIPE = {
    "model_name_or_path": "tiny", "dataset_name": "reasoning_gym:basic_arithmetic", "num_train_prompts": 16,
    "num_eval_prompts": 8, "algorithm": "aapo", "margin_low": -0.3, "num_reference_samples": 3, "num_generations": 4,
    "per_device_train_batch_size": 16, "max_steps": 10, "bf16": False, "use_cpu": True,
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    return str(tmp_path / "mine.yaml")


def plan_of(recipe, tmp_path, algorithms=("aapo", "grpo"), seeds=(0, 1), **options):
    return make_plan(recipe, algorithms, seeds, tmp_path / "out", **options)


def test_runs_differ_in_algorithm_and_seed_only(recipe, tmp_path):
    plan = plan_of(recipe, tmp_path)
    assert [(run.variant.label, run.seed) for run in plan.runs] == [("aapo", 0), ("grpo", 0), ("aapo", 1), ("grpo", 1)]
    aapo, grpo = (run.recipe.given for run in plan.runs[:2])
    # The margin and the bank are the recipe's own algorithm's.
    assert {key for key in aapo if aapo[key] != grpo.get(key)} == {"algorithm", "margin_low", "num_reference_samples"}
    assert set(grpo) <= set(aapo)
    assert plan.runs[0].recipe.trainer["eval_steps"] == 2 and plan.runs[0].recipe.trainer["eval_on_start"]
    assert plan.runs[3].path == tmp_path / "out" / "runs" / "grpo" / "seed-1"


def test_all_variants_choose_their_prompts_by_one_bank(recipe, tmp_path):
    plan = plan_of(recipe, tmp_path, flags=["--weighted_sample", "true", "--sample_strategy", "soft"])
    aapo, grpo = (run.recipe for run in plan.runs[:2])
    assert aapo.uses_bank and grpo.uses_bank
    assert aapo.run.num_reference_samples == grpo.run.num_reference_samples
    assert not plan_of(recipe, tmp_path).runs[1].recipe.uses_bank


def test_a_curve_of_no_points_evaluates_at_the_end_only(recipe, tmp_path):
    assert plan_of(recipe, tmp_path, curve_points=0).runs[0].recipe.training.eval_strategy == "no"


def test_flags_go_to_all_on_which_they_have_an_effect(recipe, tmp_path):
    plan = plan_of(recipe, tmp_path, flags=["--learning_rate", "1e-3", "--margin_high", "0.5"])
    aapo, grpo = (run.recipe for run in plan.runs[:2])
    assert aapo.trainer["learning_rate"] == grpo.trainer["learning_rate"] == 1e-3
    assert aapo.training.objective.margin_high == 0.5 and "margin_high" not in grpo.given


def test_sweep_makes_every_combination_that_an_algorithm_reads(recipe, tmp_path):
    plan = plan_of(recipe, tmp_path, seeds=[0], sweep={"margin_low": [-0.1, -0.2], "num_generations": [4, 8]})
    assert [variant.label for variant in plan.variants] == [
        "aapo margin_low=-0.1 num_generations=4",
        "aapo margin_low=-0.1 num_generations=8",
        "aapo margin_low=-0.2 num_generations=4",
        "aapo margin_low=-0.2 num_generations=8",
        "grpo num_generations=4",
        "grpo num_generations=8",
    ]
    assert plan.variants[0].folder == "aapo,margin_low=-0.1,num_generations=4"
    assert plan.runs[1].recipe.training.num_generations == 8


def test_a_sweep_over_a_default_makes_no_variants_of_what_does_not_read_it(recipe, tmp_path):
    sweep = {"num_reference_samples": [4, 8]}  # 4 is the default
    plan = plan_of(recipe, tmp_path, seeds=[0], sweep=sweep)
    assert [variant.label for variant in plan.variants] == [
        "aapo num_reference_samples=4", "aapo num_reference_samples=8", "grpo",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"algorithms": ["aapo", "aapo"]}, "name each algorithm once"),
        ({"algorithms": ["gropo"]}, "algorithm is 'gropo'"),
        ({"seeds": []}, "--seeds must name each seed once"),
        ({"match": "token"}, "--match is 'token' (did you mean tokens?)"),
        ({"match": "tokens"}, "--match tokens needs the tokens that each run may use"),
        ({"budget": 5.0}, "--budget has no effect"),
        ({"flags": ["--seed", "3"]}, "seed cannot be set, because the comparison sets it"),
        ({"sweep": {"num_generations": [3]}}, "aapo num_generations=3: "),
        ({"flags": ["--num_eval_prompts", "0"]}, "num_eval_prompts"),
    ],
)
def test_bad_plans_are_refused(recipe, tmp_path, options, words):
    with pytest.raises(InputError, match=re.escape(words)):
        plan_of(recipe, tmp_path, **options)


def test_budget_ends_runs(recipe, tmp_path):
    plan = plan_of(recipe, tmp_path, match="tokens", budget=5000.0)
    assert plan.runs[0].recipe.run.max_generated_tokens == 5000 and plan.budget == 5000


def test_each_run_pays_its_part_of_the_bank_that_it_reads(recipe, tmp_path):
    shares = {"run": 1.0, "amortised": 1 / 2, "free": 0.0}  # of two variants with two seeds one reads a bank
    for bank_cost, share in shares.items():
        plan = plan_of(
            recipe, tmp_path / bank_cost, ["aapo", "grpo"], match="tokens", budget=5000.0, bank_cost=bank_cost
        )
        assert plan.bank_share == share
        assert [run.recipe.run.bank_cost_share for run in plan.runs[:2]] == [share, 1.0]
    assert plan_of(recipe, tmp_path).bank_share == 1  # a run pays for all that it reads, unless told otherwise
    write_plan(plan_of(recipe, tmp_path, match="tokens", budget=5000.0, bank_cost="amortised"))
    more = plan_of(recipe, tmp_path, seeds=(2, 3, 4), match="tokens", budget=5000.0, bank_cost="run")
    assert more.bank_share == 1 / 2  # what the runs that are there were given
    with pytest.raises(InputError, match="--bank-cost is 'none'; it must be run, amortised, free"):
        plan_of(recipe, tmp_path / "other", bank_cost="none")


def test_costs_count_the_share_of_the_reference_samples():
    rows = [
        {"step": step, "seconds": 2.0 * step, "rollout/generated_tokens": 100 * step, "bank/generated_tokens": 40,
         "bank/seconds": 3.0, "eval_rollout/accuracy": 0.1 * step}
        for step in (1, 2)
    ]  # fmt: skip
    run = FinishedRun(Path("seed-0"), 0, None, rows, bank_share=0.25)  # type: ignore[arg-type]
    assert (run.end("steps"), run.end("tokens"), run.end("seconds")) == (2, 210, 4.75)
    assert run.bank_tokens == 10 and run.curve("tokens") == ([110, 210], [0.1, 0.2])
    spent = Spent(99, 1.0)
    assert not spent.reaches(Budget(100, None, 0.5)) and spent.reaches(Budget(99)) and spent.reaches(Budget(None, 1.0))


def test_a_flag_without_effect_on_any_variant_is_refused(recipe, tmp_path):
    with pytest.raises(InputError, match="--margin_high has no effect on any of grpo, gpg; remove it"):
        plan_of(recipe, tmp_path, ["grpo", "gpg"], flags=["--margin_high", "0.5"])


def test_a_comparison_takes_more_seeds_and_no_other_settings(recipe, tmp_path):
    write_plan(plan_of(recipe, tmp_path))
    write_plan(plan_of(recipe, tmp_path, ["gpg"], [2]))
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["label"] for row in stored["variants"]] == ["aapo", "grpo", "gpg"]
    with pytest.raises(InputError, match="holds another comparison .*aapo: other settings"):
        plan_of(recipe, tmp_path, flags=["--learning_rate", "0.1"])
    with pytest.raises(InputError, match="match: steps there, tokens asked"):
        plan_of(recipe, tmp_path, match="tokens", budget=100.0)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").touch()
    with pytest.raises(InputError, match="is not empty and holds no comparison"):
        make_plan(recipe, ["aapo"], [0], tmp_path / "papers")


# -- the queue ---------------------------------------------------------------------------------------------------------

STAND_IN = """#!{python}
import os, sys, time
from pathlib import Path
recipe, run = Path(sys.argv[4]), Path(sys.argv[6])
with open({calls!r}, "a") as calls:
    calls.write(f"{{run.parent.name}}/{{run.name}} {{os.environ.get('CUDA_VISIBLE_DEVICES')}} {{sys.argv[7:]}}\\n")
if run.parent.name == "grpo" and run.name == "seed-1" and not Path({mended!r}).exists():
    {fails}
time.sleep({seconds})
(run / "evaluation").mkdir(parents=True)
(run / "recipe.yaml").touch()
(run / "evaluation" / "results.json").write_text("[]")
"""


FAILS = "sys.exit('some noise\\naapo: out of luck\\nthe last\\nwords of\\nsome library')"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A program in place of Python that notes how it was called, fails for one run, and leaves results of others."""

    def install(seconds=0.0, fails=FAILS):
        program = tmp_path / "program"
        names = {"calls": str(tmp_path / "calls"), "mended": str(tmp_path / "mended")}
        program.write_text(STAND_IN.format(python=sys.executable, seconds=seconds, fails=fails, **names))
        program.chmod(0o755)
        monkeypatch.setattr("aapo.experiments.queue.sys.executable", str(program))
        return tmp_path / "calls"

    return install


def test_a_failed_run_is_told_and_tried_again_and_stops_no_other(recipe, tmp_path, stand_in, capsys):
    calls = stand_in()
    plan = plan_of(recipe, tmp_path)
    write_plan(plan)
    (failure,) = execute(plan)
    assert (failure.run.variant.label, failure.run.seed, failure.reason) == ("grpo", 1, "out of luck")
    assert failure.run.beside(".failed").read_text() == "out of luck\n"
    assert [line.split()[0] for line in calls.read_text().splitlines()] == [
        "aapo/seed-0", "grpo/seed-0", "aapo/seed-1", "grpo/seed-1",
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert "4 runs, 0 of them done" in out and "[4/4] grpo seed 1: failed: out of luck" in out
    (tmp_path / "mended").touch()
    assert execute(plan) == []
    assert len(calls.read_text().splitlines()) == 5
    assert not failure.run.beside(".failed").exists()


@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "killed by signal 9 (SIGKILL), as happens when memory runs out; its log is {log}"),
        ("os.kill(os.getpid(), 11)", "killed by signal 11 (SIGSEGV); its log is {log}"),
        ("os._exit(3)", "exit code 3; its log is {log}"),  # and not what an earlier attempt has said
    ],
)
def test_a_run_that_ends_without_a_word_is_told_with_how_and_its_log(recipe, tmp_path, stand_in, fails, reason):
    stand_in(fails=fails)
    plan = plan_of(recipe, tmp_path)
    write_plan(plan)
    log = tmp_path / "out" / "runs" / "grpo" / "seed-1.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("aapo: an earlier reason\n")
    (failure,) = execute(plan)
    assert failure.reason == reason.format(log=log)


def test_jobs_have_their_devices_and_resume_what_began(recipe, tmp_path, stand_in):
    calls = stand_in(seconds=1.0)
    (tmp_path / "mended").touch()
    plan = plan_of(recipe, tmp_path)
    write_plan(plan)
    plan.runs[2].path.mkdir()
    (plan.runs[2].path / "recipe.yaml").touch()
    began = time.monotonic()
    assert execute(plan, 4, ["0", "1", "2", "3"]) == []
    assert time.monotonic() - began < 3.9  # side by side
    found = dict(line.split(maxsplit=1) for line in calls.read_text().splitlines())
    assert sorted(found.values()) == ["0 []", "1 []", "2 ['--resume']", "3 []"]


def test_a_run_that_another_process_holds_is_left_to_it(recipe, tmp_path, stand_in):
    import fcntl

    calls = stand_in()
    plan = plan_of(recipe, tmp_path, ["aapo"], [0])
    write_plan(plan)
    (run,) = plan.runs
    with run.beside(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        from threading import Thread

        thread = Thread(target=execute, args=(plan,))
        thread.start()
        time.sleep(1.5)
        assert not calls.exists()
        (run.path / "evaluation").mkdir(parents=True)
        (run.path / "evaluation" / "results.json").write_text("[]")  # the other has finished it
    thread.join(10)
    assert not thread.is_alive() and not calls.exists()


# -- summary and report ------------------------------------------------------------------------------------------------


@pytest.fixture
def compared(recipe, tmp_path):
    """Three algorithms by three seeds: dr_grpo is clearly worse, grpo about as good; one run of it failed."""
    plan = plan_of(recipe, tmp_path, ["aapo", "grpo", "dr_grpo"], [0, 1, 2, 3])
    write_plan(plan)
    rng = np.random.default_rng(0)
    easy_P = rng.random(40)
    level = {"aapo": 0.6, "grpo": 0.6, "dr_grpo": 0.1}
    for run in plan.runs:
        if (run.variant.label, run.seed) == ("grpo", 3):
            run.beside(".failed").write_text("no memory <b>\n")
            continue
        finish(run.path, np.clip(level[run.variant.label] * easy_P + 0.1 * rng.random(40), 0, 1))
    return tmp_path / "out"


def test_summary_says_what_can_be_told(compared):
    summary = write_summary(compared)
    assert json.loads((compared / "summary.json").read_text()) == summary
    aapo, grpo, _ = summary["variants"]
    assert (aapo["seeds"], grpo["seeds"]) == ([0, 1, 2, 3], [0, 1, 2])
    scores = aapo["final"]["scores"]
    assert aapo["final"]["mean"]["estimate"] == pytest.approx(np.mean(scores))
    assert aapo["final"]["interquartile_mean"]["estimate"] == pytest.approx(np.mean(sorted(scores)[1:3]))
    # The curve rises linearly from 0 to the run's mean share.
    assert aapo["area"]["scores"][0] == pytest.approx(aapo["curves"][0]["scores"][-1] / 2)
    assert aapo["cost"] == {"steps": 10, "tokens": 1000, "seconds": 20, "bank_tokens": 0, "whole_bank_tokens": 0}
    verdicts = {(pair["one"], pair["other"]): pair["verdict"] for pair in summary["pairs"]}
    assert verdicts == {
        ("aapo", "grpo"): "cannot tell", ("aapo", "dr_grpo"): "better", ("grpo", "dr_grpo"): "better",
    }  # fmt: skip
    pair = summary["pairs"][0]
    assert pair["seeds"] == [0, 1, 2]
    assert pair["final"]["difference"] == pytest.approx(
        np.mean(np.subtract(scores[:3], grpo["final"]["scores"])), abs=1e-9
    )
    assert all(pair["p_corrected"] >= pair["p_value"] for pair in summary["pairs"])
    assert summary["failures"] == [{"run": "runs/grpo/seed-3", "reason": "no memory <b>"}]


def test_pairs_are_of_one_seed_and_one_problem():
    def run(seed, **scores):
        evaluated = SimpleNamespace(problems=["a", "b"])
        final = np.mean(list(scores.values()))
        return SimpleNamespace(seed=seed, scores=scores, final=final, trained=evaluated, curve=lambda match: ([], []))

    # Alike for each seed and problem, though not in their places; seed 2 has no partner.
    one = Group(Variant("aapo", {}), [run(0, a=1, b=0), run(1, a=0, b=0)])
    other = Group(Variant("grpo", {}), [run(0, b=0, a=1), run(1, b=0, a=0), run(2, b=1, a=1)])
    pair = _pair(one, other, "steps", 10)
    assert pair.row["seeds"] == [0, 1] and pair.difference.p_value == 1
    # Nothing varies: another difference on 1 - sqrt(0.05) of two problems may go unseen.
    reach = 1 - 0.05**0.5
    assert pair.row["final"] == pytest.approx({"difference": 0, "low": -reach, "high": reach})


def test_verdict_is_about_the_first_variant(compared):
    summary = write_summary(compared)
    verdict = judge(summary)
    assert verdict.headline == "aapo is better than dr_grpo, not told apart from grpo"
    assert verdict.tone == "unclear"
    told, _, clear = verdict_sentences(summary)[0], None, verdict_sentences(summary)[1]
    assert re.fullmatch(r"aapo against grpo: cannot tell, [+-][\d.]+ points \[.*\]; .*", told)
    assert re.fullmatch(r"aapo is better than dr_grpo: \+[\d.]+ points \[.*\], corrected p .*", clear)
    summary["variants"].reverse()
    assert judge(summary).headline == "dr_grpo is worse than aapo and grpo"


def test_report_of_a_comparison(compared):
    write_summary(compared)
    page = write_report([compared]).read_text(encoding="utf-8")
    assert "<h1>Comparison out</h1>" in page
    assert "aapo is better than dr_grpo, not told apart from grpo" in page
    assert "no memory &lt;b&gt;" in page and "algorithm: &lt;i&gt;x" in page
    names = {file.name for file in (compared / "figures").iterdir()}
    drawn = ("final_scores", "accuracy_over_tokens", "score_curves", "signals")
    assert names == {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")} | {"accuracy_over_tokens.pdf"}
    for alt in ("Dot chart of final scores.", "Line chart of held-out scores.", "dead groups before the margin"):
        assert alt in page


def write_rollout_file(path: Path, step: int, keys: list[str], completion: str) -> None:
    rows = [
        {
            "step": step, "prompt": f"prompt {key}", "prompt_key": key, "gold": "2", "completion": completion,
            "completion_tokens": 3, "truncated": False, "reward": 1.0, "advantage": 0.0, "margin": 0.1,
            "augmented": 0.1, "correct": 1.0, "extracted": "2",
            "reward/accuracy": 1.0, "verdict/accuracy": "correct", "rule/accuracy": "number",
        }
        for key in keys
        for _ in range(2)
    ]  # fmt: skip
    samples = RunDirectory(path).samples
    samples.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), samples / f"step-{step:06d}.parquet")


def test_rollouts_of_the_variants_stand_beside_each_other(compared):
    # The first variant's hashes are in another order on file; of a step the least key is shown, of each run.
    for variant, keys in (("aapo", ["b", "a"]), ("grpo", ["a", "b"])):
        for step in (1, 2):
            write_rollout_file(compared / "runs" / variant / "seed-0", step, keys, f"<script>{variant}</script>")
    write_summary(compared)
    page = write_report([compared]).read_text(encoding="utf-8")
    shown = re.findall(r'data-run="(\w+)" data-step="(\d)"', page)
    assert shown == [(run, step) for step in "12" for run in ("aapo", "aapo", "grpo", "grpo")]
    assert page.count("prompt a</pre>") == 8 and "prompt b" not in page
    assert "&lt;script&gt;grpo&lt;/script&gt;" in page and "<script>grpo" not in page
    assert '<select name="run">' in page


def test_heat_map_of_a_sweep(recipe, tmp_path):
    plan = plan_of(recipe, tmp_path, ["aapo"], [0], sweep={"margin_low": [-0.1, -0.2], "num_generations": [4, 8]})
    write_plan(plan)
    for place, run in enumerate(plan.runs):
        finish(run.path, np.full(8, place / 4))
    write_summary(tmp_path / "out")
    page = write_report([tmp_path / "out"]).read_text(encoding="utf-8")
    assert "Heat map. aapo margin_low=-0.1 num_generations=4: 0.0%." in page
    assert (tmp_path / "out" / "figures" / "heat_map_aapo.png").exists()
    assert "one seed says nothing about others" in page


def test_variants_that_differ_in_different_settings_have_no_heat_map(recipe, tmp_path):
    variants = ["aapo", Variant("aapo", {"margin_high": 1.0}), Variant("aapo", {"margin": "scaled"})]
    plan = plan_of(recipe, tmp_path, variants, [0])
    write_plan(plan)
    for place, run in enumerate(plan.runs):
        finish(run.path, np.full(8, place / 4))
    write_summary(tmp_path / "out")
    page = write_report([tmp_path / "out"]).read_text(encoding="utf-8")
    assert "aapo margin_high=1.0" in page and "aapo margin=scaled" in page and "Heat map" not in page


def test_no_finished_run_is_no_summary(recipe, tmp_path):
    with pytest.raises(InputError, match="holds no comparison"):
        write_summary(tmp_path)
    write_plan(plan_of(recipe, tmp_path))
    with pytest.raises(InputError, match="has no finished run yet"):
        write_summary(tmp_path / "out")


def test_band_is_the_mean_over_curves_where_all_are_known():
    found = band([([0, 10], [0.0, 1.0]), ([0, 5, 20], [0.2, 0.2, 0.2])], share=False)
    assert found.positions.tolist() == [0, 5, 10]
    assert found.means.tolist() == pytest.approx([0.1, 0.35, 0.6])
    # Student's t of one degree of freedom, 12.706, times the deviation 0.2 / sqrt(2) over sqrt(2).
    assert found.highs[0] - found.means[0] == pytest.approx(12.7062 * 0.1, rel=1e-4)
    assert np.isnan(band([([0, 1], [0.0, 1.0])], share=True).lows).all()
    # The same on the scale of log odds, by d logit = d mean / (mean (1 - mean)); where all are 1, there is no spread.
    shares = band([([0, 10], [0.0, 1.0]), ([0, 10], [0.2, 1.0])], share=True)
    assert shares.highs[0] == pytest.approx(1 / (1 + 9 * np.exp(-12.7062 * 0.1 / 0.09)), rel=1e-4)
    assert 0 < shares.lows[0] < 1e-6 and shares.lows[1] == shares.highs[1] == 1


def test_label_of_an_algorithm_in_a_file_is_its_name():
    assert Variant("path/to/mine.py:BOLD", {}).folder == "BOLD"
