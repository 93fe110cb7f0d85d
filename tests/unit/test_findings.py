"""What a run's metrics say, how findings are ordered and shown, and packages against their ranges."""

import pytest

from aapo.runs import RunDirectory
from aapo.training.doctor import environment
from aapo.training.doctor.history import history_findings
from aapo.training.findings import Finding, most_severe_first, percent, quoted


@pytest.fixture
def run(tmp_path):
    def make(rows):
        found = RunDirectory(tmp_path)
        for step, row in enumerate(rows, 1):
            found.append_metrics({"step": step, "grad_norm": 0.1, **row})
        return found

    return make


def named(findings):
    return {finding.name: finding for finding in findings}


def test_a_run_in_order_has_no_warning(run):
    rows = [
        {"signal/zero_gradient": 0.0, "entropy": 1.0, "rollout/accuracy": n / 20, "weights/moved_frac": 1.0}
        for n in range(20)
    ]
    (found,) = history_findings(run(rows))
    # The first tenth are two steps, (0 + 1) / 40; the last quarter five, (15 + ... + 19) / 100.
    assert (found.level, found.text) == ("ok", "20 steps, accuracy of the rollouts 2% -> 85%")


@pytest.mark.parametrize(
    ("early", "late", "name", "text"),
    [
        ({}, {"signal/dead_after_margin_frac": 0.6}, "dead groups", "60% of the groups had no gradient at the end"),
        ({}, {"rollout/truncated_frac": 0.3}, "truncated", "30% of the completions were cut at max_completion_length"),
        ({}, {"grading/no_answer_frac": 0.25}, "no answer", "25% of the completions had no answer"),
        ({"entropy": 2.0}, {"entropy": 0.1}, "entropy", "fell from 2 to 0.1 nats a token"),
        ({}, {"sampling/sampling_logp_difference/mean": 0.2}, "sampler", "differ by 0.2 nats"),
        ({}, {"sampling/lost_token_frac": 0.1}, "lost tokens", "10% of the tokens weighed less than 1/2"),
        ({"weights/moved_frac": 0.012}, {}, "weights", "only 1% of the weights moved"),
        ({}, {"signal/zero_gradient": 1.0}, "zero gradient", "50% of the steps had no gradient"),
        ({}, {"grad_norm": 0.0}, "zero gradient", "50% of the steps had no gradient"),
    ],
)
def test_what_went_wrong_while_it_trained(run, early, late, name, text):
    found = history_findings(run([early] * 4 + [late] * 4))
    fault = named(found)[name]
    assert len(found) == 2 and fault.level == "warning" and text in fault.text
    assert fault.advice and fault.page.startswith("docs/")


def test_a_run_without_any_gradient_is_an_error_and_one_without_steps_is_not(run):
    found = named(history_findings(run([{"signal/zero_gradient": 1.0}] * 3)))
    assert found["zero gradient"].level == "error" and found["zero gradient"].text.startswith("100% of the steps")
    assert history_findings(RunDirectory("nothing"))[0] == Finding("note", "run", "no step is logged yet")


def test_findings_are_shown_the_most_severe_first_within_80_columns():
    given = [Finding("ok", "a", "a"), Finding("note", "b", "b"), Finding("error", "c", "c"), Finding("note", "d", "d")]
    assert "".join(finding.name for finding in most_severe_first(given)) == "cbda"
    long = Finding("warning", "x", "word " * 30 + "long" * 40, "do " * 40, "docs/data.md")
    assert max(map(len, long.lines())) <= 80 and long.lines()[0].startswith("warning  word")
    # Wide characters take two columns.
    wide = Finding("note", "x", "字" * 60).lines()
    assert [line.count("字") for line in wide] == [35, 25]
    assert Finding("note", "x", "x", "", "docs/data.md").lines()[1].strip() == "-> see docs/data.md"
    assert Finding("note", "x", "found", "do it").sentence == "found; do it"


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "0%"), (0.001, "<1%"), (0.25, "25%"), (0.996, ">99%"), (1.0, "100%")]
)
def test_a_share_is_all_or_nothing_only_where_it_is(share, shown):
    assert percent(share) == shown


def test_a_quote_is_one_line_without_commands():
    assert quoted("a\n b\x1b[0m") == r"'a b\x1b[0m'"
    assert quoted("x" * 100) == repr("…" + "x" * 60)


def test_packages_against_ranges_and_pins(monkeypatch):
    versions = {"trl": "1.15.0", "torch": "2.15.0+cpu", "peft": "0.22.0", "absent": None}
    monkeypatch.setattr(
        environment, "requires",
        lambda name: ["trl>=1.16,<1.17", "torch>=2.13", "peft>=0.21", "absent>=1", "vllm>=1 ; extra == 'vllm'"],
    )  # fmt: skip
    monkeypatch.setattr(environment, "installed_version", versions.get)
    monkeypatch.setattr(environment, "tested_versions", lambda: {"torch": "2.15.0", "peft": "0.21.2"})
    assert [finding[:3] for finding in environment.package_findings()] == [
        ("warning", "packages", "trl 1.15.0 is installed, and aapo needs <1.17,>=1.16"),
        ("note", "packages", "peft 0.22.0 is installed; aapo is tested with 0.21.2"),
        ("error", "packages", "absent is not installed"),
    ]
    monkeypatch.undo()
    assert environment.tested_versions()["trl"].startswith("1.")


def test_little_disk_is_a_warning(monkeypatch, cache):
    monkeypatch.setattr(environment, "free_space", lambda folder: 2**30)
    assert environment.disk_finding().level == "warning"
