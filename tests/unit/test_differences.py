"""The pages of differences from other graders, their data and the code that makes them say the same."""

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

import lighteval_agreement
import math_verify_differences
from aapo.grading import grade
from differences import DOCS, KINDS, cell, examples, kind_of, read, table
from lighteval_causes import find_cause
from model_completions import KIND, Row, model_completions

ROOT = Path(__file__).parents[2]
SCRIPTS = {"math_verify": math_verify_differences, "lighteval": lighteval_agreement}
SAMPLE = 40  # every so many cases are graded by math-verify again


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def cases():
    table = json.loads(Path("tests/unit/grading_cases.json").read_text(encoding="utf-8"))
    return {key(case): case for case in table}


def key(case):
    return case["gold"], case["completion"], case.get("convention")


def difference(**changed):
    made = {
        "kind": "numbers",
        "topic": "numbers",
        "gold": "1",
        "completion": "2",
        "ours": {"verdict": "wrong", "rule": "number", "answer": "2"},
        "lighteval": {"pays": True, "gold": "1", "answer": "1"},
        "right": "ours",
        "why": "not the same",
    }
    return {**made, **changed}


@pytest.mark.parametrize("grader", SCRIPTS)
def test_the_page_is_what_the_data_say(grader):
    script = SCRIPTS[grader]
    page = (DOCS / f"{script.NAME}.md").read_text(encoding="utf-8")
    assert page == script.page(*read(script.NAME)), f"run benchmarks/{script.__name__}.py"
    assert len(page.splitlines()) <= 70


@pytest.mark.parametrize("grader", SCRIPTS)
def test_our_verdicts_in_the_data_are_those_of_the_table(grader, cases):
    _, differences = read(SCRIPTS[grader].NAME)
    for one in differences:
        if one["kind"] == KIND:
            continue
        ours = one["ours"]["verdict"]
        assert ours == cases[key(one)]["verdict"], (
            f"the table has changed: run benchmarks/{SCRIPTS[grader].__name__}.py"
        )
        assert one["kind"] == kind_of(one["topic"])
        assert one["right"] == "ours" and one[grader]["pays"] == (ours != "correct")


def test_every_case_of_the_table_was_compared_with_math_verify(cases):
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    report, differences = read(math_verify_differences.NAME)
    assert report["cases"] == len(cases), "the table has changed: run benchmarks/math_verify_differences.py"
    assert report["both_pay"] + report["neither_pays"] + len(differences) == len(cases)
    differing = {key(one): one for one in differences}
    assert len(differing) == len(differences)
    assert all((one["topic"], one["why"]) == (cases[key(one)]["topic"], cases[key(one)]["why"]) for one in differences)
    for case in list(cases.values())[::SAMPLE]:
        found = math_verify_differences.plain_math_verify(case["gold"], case["completion"])
        differs = found.pays != (case["verdict"] == "correct")
        assert differs == (key(case) in differing), case
        if differs:
            assert differing[key(case)]["math_verify"] == found._asdict()


def test_our_verdicts_on_models_completions_are_those_of_the_data():
    report, differences = read(lighteval_agreement.NAME)
    rows, ours_not_right = {}, 0
    for row in model_completions():
        verdict = grade(row.gold, row.completion, convention=row.convention)
        rows[row.gold, row.completion] = row, verdict
        ours_not_right += (verdict.outcome == "correct") != row.right
    assert len(rows) == sum(report["sets"][KIND][count] for count in lighteval_agreement.OUTCOMES.values())
    assert ours_not_right == report["sets"][KIND]["ours_not_right"]
    found = [one for one in differences if one["kind"] == KIND]
    assert found
    for one in found:
        row, (outcome, extracted, rule) = rows[one["gold"], one["completion"]]
        assert one["ours"] == {"verdict": outcome, "rule": rule, "answer": extracted}
        assert (one["right"] == "ours") == ((outcome == "correct") == row.right)


def test_the_counts_and_causes_of_the_report_are_those_of_the_differences():
    report, differences = read(lighteval_agreement.NAME)
    alone = Counter((one["kind"] == KIND, one["lighteval"]["pays"]) for one in differences if one["right"] != "neither")
    for name, counts in report["sets"].items():
        assert counts["lighteval_alone"] == alone[name == KIND, True]
        assert counts["we_alone"] == alone[name == KIND, False]
    assert report["causes"] == lighteval_agreement.causes(differences)
    for one in differences:
        assert one["cause"] == find_cause(one)
        assert report["causes"][one["cause"]]["paid_by"] == ("lighteval" if one["lighteval"]["pays"] else "us")


def test_every_topic_of_the_table_is_of_one_kind(cases):
    topics = [topic for kind in KINDS.values() for topic in kind]
    assert len(topics) == len(set(topics)) and set(topics) == {case["topic"] for case in cases.values()}
    with pytest.raises(LookupError, match="no kind has the topic 'weather'; add it to one of KINDS"):
        kind_of("weather")


def test_a_difference_without_a_cause_is_refused():
    assert find_cause(difference(topic="thousands")) == "groups of three behind a zero"
    assert find_cause(difference(right="lighteval")) == "a right answer that we do not pay"
    with pytest.raises(LookupError, match="no cause for"):
        find_cause(difference(topic="weather"))


def test_completions_on_which_graders_differ_or_both_err_are_kept():
    def graded(completion, right, pays):
        row = Row("aapo_math_500", {}, "42", completion, right, "no box", "integer", KIND)
        return row, lighteval_agreement.Read(pays, "42", "42")

    pairs = [
        graded(r"\boxed{42}", True, True),
        graded(r"\boxed{42}", False, True),
        graded(r"\boxed{41}", False, False),
        graded("It is 42", False, True),
        graded(r"\boxed{42.}", True, False),
        graded(r"\boxed{42}", True, None),
    ]
    counts, found = lighteval_agreement.compare(*map(list, zip(*pairs, strict=True)))
    assert counts == {"both_pay": 2, "neither_pays": 1, "lighteval_alone": 1, "we_alone": 1, "left_out": 1,
                      "ours_not_right": 1, "lighteval_not_right": 3, "unboxed": 3}  # fmt: skip
    assert [(one["right"], one.get("cause")) for one in found] == [
        ("neither", None),
        ("ours", "any number or formula that stands in the text"),
        ("ours", "a full stop in the box"),
    ]


def test_examples_come_from_the_most_frequent_causes_in_turn_the_shortest_first():
    def caused(cause, gold):
        return difference(cause=cause, gold=gold)

    rare, common = [caused("rare", "55")], [caused("common", gold) for gold in ("333", "22", "4444")]
    assert [one["gold"] for one in examples([*rare, *common])] == ["22", "55", "333"]
    text = table([*rare, *common, difference(kind="lists", cause="lists", gold="2", completion="[|2|]")], "lighteval")
    assert text.splitlines()[2:] == [
        "| numbers | 4 | `22`, `2` (`1`); `55`, `2` (`1`); `333`, `2` (`1`) |",
        r"| lists | 1 | `2`, `[\|2\|]` (`1`) |",  # the answer is the gold answer, so the completion says more
    ]


def test_cells_show_what_cannot_be_seen_and_the_end_of_long_texts():
    assert cell("a|b\n`c`\u200b") == r"`a\|b 'c'\u200b`"
    assert cell("x" * 60 + "y") == "`…" + "x" * 59 + "y`"
    assert cell(" ") == "nothing"
