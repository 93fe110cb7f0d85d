import inspect
import re
from math import cos, isclose, pi, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aapo.errors import InputError
from aapo.grading import REWARDS, rewards
from aapo.grading.answers import Verdict
from aapo.grading.rewards import length

RIGHT, WRONG, NONE = r"\boxed{4}", r"\boxed{5}", "I do not know"


@pytest.fixture(params=["plain", "conversational"])
def form(request):
    """Texts as completions of either kind."""
    if request.param == "plain":
        return list
    return lambda texts: [[{"role": "assistant", "content": text}] for text in texts]


def ids(*lengths):
    return [[7] * length for length in lengths]


def padded(text, characters):
    return "x" * (characters - len(text)) + text


@pytest.fixture
def outcomes(monkeypatch):
    """Sets the verdicts of the next call, and records the options that `judge` is given."""
    seen = {}

    def use(*values):
        def judge(name, completions, answer, log_extra, prompt_opening, **options):
            seen.update(name=name, options=options)
            return [Verdict(value, None, "test") for value in values]

        monkeypatch.setattr(length, "judge", judge)
        return seen

    return use


def close(values, expected):
    assert len(values) == len(expected)
    for value, wanted in zip(values, expected, strict=True):
        assert value is None if wanted is None else isclose(value, wanted, abs_tol=1e-12), (values, expected)


# format

THINK_ANSWER = [
    ("<think>a</think><answer>b</answer>", 1.0),
    (" \n<think>a\nb</think>\n\n<answer>c</answer>\n", 1.0),
    ("<think></think><answer></answer>", 1.0),
    ("<think>a < b, </thin></think><answer>c</answer>", 1.0),
    ("", 0.0),
    ("<think>a</think>", 0.0),
    ("x<think>a</think><answer>b</answer>", 0.0),
    ("<think>a</think>x<answer>b</answer>", 0.0),
    ("<think>a</think><answer>b</answer> and more", 0.0),
    ("<think>a<think>b</think><answer>c</answer>", 0.0),
    ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
    ("<think>a</think><answer>b</answer></answer>", 0.0),
    ("<answer>b</answer><think>a</think>", 0.0),
    ("<think><answer></think></answer>", 0.0),
    ("<Think>a</Think><answer>b</answer>", 0.0),
]
THINK = [
    ("<think>a</think>b", 1.0),
    ("\n<think></think>\n\nThe answer is 4.\n", 1.0),
    ("<think>a</think><answer>b</answer>", 1.0),
    ("", 0.0),
    ("b", 0.0),
    ("<think>a</think>", 0.0),
    ("<think>a</think> \n", 0.0),
    ("x<think>a</think>b", 0.0),
    ("a</think>b", 0.0),
    ("<think>a<think>b</think>c", 0.0),
    ("<think>a</think>b</think>c", 0.0),
    ("</think>a<think>b", 0.0),
]
CLOSING_LINE = [
    ("a\n</think>\nb", 1.0),
    ("<think>\na\n</think>\nb", 1.0),
    ("\n</think>\n", 1.0),  # neither a thought nor an answer
    ("a\n</think>\n</think>\nb", 1.0),  # the second line shares its first newline with the first, so count() skips it
    ("a\n</think>\nb</think>c", 1.0),  # a closing tag within a line is not looked at
    ("", 0.0),
    ("a</think>\nb", 0.0),
    ("a\n</think>b", 0.0),
    ("a\n</think> \nb", 0.0),
    ("a\n</think>\nb\n</think>\nc", 0.0),
]


@pytest.mark.parametrize(
    ("style", "cases"), [("think_answer", THINK_ANSWER), ("think", THINK), ("closing_line", CLOSING_LINE)]
)
def test_format_in_each_style(form, style, cases):
    texts, paid = zip(*cases, strict=True)
    assert rewards.format(form(texts), style=style) == list(paid)


def test_format_is_think_answer_by_default(form):
    texts, paid = zip(*THINK_ANSWER, strict=True)
    assert rewards.format(form(texts)) == list(paid)


PIECES = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "\n", " ", "a", "<", "think>", "\x1c", "\xa0"]
)
NO_TAG = r"(?:(?!</?(?:think|answer)>).)*"
GRAMMAR = re.compile(rf"\s*<think>{NO_TAG}</think>\s*<answer>{NO_TAG}</answer>\s*", re.DOTALL)


@given(st.lists(PIECES, max_size=10).map("".join))
def test_the_default_format_is_its_grammar(text):
    for candidate in (text, f"<think>{text}</answer>", f"<think>{text}</think><answer>{text}</answer>"):
        assert rewards.format([candidate]) == [float(GRAMMAR.fullmatch(candidate) is not None)]


# tag_count


def test_tag_count_is_the_share_of_tags_that_occur_once(form):
    texts = [
        "<think>a</think><answer>b</answer>",  # 4 of 4
        "<think> a </think>\n\n<answer> b </answer>",  # 4 of 4: white space around tags is free
        "</answer><answer></think><think>",  # 4 of 4: order is not looked at
        "<think>a</think><answer>b",  # 3 of 4
        "<think>a<think>b</think>c",  # 1 of 4: <think> twice, </think> once
        "a</think>b",  # 1 of 4
        "",  # 0 of 4
    ]
    assert rewards.tag_count(form(texts)) == [4 / 4, 4 / 4, 4 / 4, 3 / 4, 1 / 4, 1 / 4, 0.0]


def test_tag_count_with_strict_newlines_is_open_r1s(form):
    texts = [
        "<think>\na\n</think>\n<answer>\nb\n</answer>",  # "<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>"
        "<think>a</think><answer>b</answer>",  # none of the four
        "<think>\na\n</think>\n\n<answer> b\n</answer>",  # all but "\n<answer>\n"
        "<think>\n<think> a\n</think>\nb",  # "<think>\n" and "\n</think>\n": the other <think> has no newline
    ]
    assert rewards.tag_count(form(texts), strict_newlines=True) == [4 / 4, 0.0, 3 / 4, 2 / 4]
    assert rewards.tag_count(form(texts)) == [4 / 4, 4 / 4, 4 / 4, 1 / 4]


# reasoning_steps


def test_reasoning_steps_is_a_third_per_marker_up_to_one(form):
    texts = [
        "Just 4.",  # no marker
        "Step 1: add",  # 1
        "First, add. Next, stop.",  # 2
        "Step 1: a Step 22: b Finally, c Second, d",  # 4
        "so:\n- a\n* b",  # 2 bullets
        "- a",  # a bullet needs a newline before it
        "First add, Step: x, step 1: y",  # none is written as a marker
        "",
    ]
    assert rewards.reasoning_steps(form(texts)) == [0.0, 1 / 3, 2 / 3, 1.0, 2 / 3, 0.0, 0.0, 0.0]


def test_numbered_lines_count_at_every_line_start_or_as_upstream_at_the_texts_start_only(form):
    texts = [
        "1. a\n2. b\n10. c",  # lines 1, 2 and 3; upstream sees the first
        "so:\n1. a\n2. b",  # lines 2 and 3; upstream sees none
        "it is 1. and\n 2. indented",  # none stands at the start of a line
        "1. a\n- b",  # a numbered line and a bullet, for both
    ]
    assert rewards.reasoning_steps(form(texts)) == [1.0, 2 / 3, 0.0, 2 / 3]
    assert rewards.reasoning_steps(form(texts), multiline=False) == [1 / 3, 0.0, 0.0, 2 / 3]


# len


def test_len_is_lambda_for_a_right_answer_and_at_most_0_for_a_wrong_one(form):
    # Lengths 10, 20, 30, 50: min 10, max 50, lambda = 0.5 - (L - 10) / 40 = 0.5, 0.25, 0, -0.5.
    lengths = ids(10, 20, 30, 50)
    right, wrong, none = form([RIGHT] * 4), form([WRONG] * 4), form([NONE] * 4)
    gold = ["4"] * 4
    close(rewards.len(right, gold, completion_ids=lengths), [0.5, 0.25, 0.0, -0.5])
    close(rewards.len(wrong, gold, completion_ids=lengths), [0.0, 0.0, 0.0, -0.5])
    close(rewards.len(none, gold, completion_ids=lengths), [0.0, 0.0, 0.0, -0.5])
    mixed = form([WRONG, RIGHT, RIGHT, WRONG])
    close(rewards.len(mixed, gold, completion_ids=lengths), [0.0, 0.25, 0.0, -0.5])


@pytest.mark.parametrize("prompt", [str, lambda name: [{"role": "user", "content": name}]])
def test_len_compares_within_the_prompt_wherever_its_completions_stand(form, prompt):
    # a: 10, 20, 30 -> 0.5 - (L - 10) / 20 = 0.5, 0, -0.5.  b: 100, 500 -> 0.5, -0.5.  c: one completion -> 0.
    prompts = [prompt(name) for name in "abacba"]
    lengths = ids(10, 500, 20, 77, 100, 30)
    call = {"answer": ["4"] * 6, "prompts": prompts, "completion_ids": lengths}
    close(rewards.len(form([RIGHT] * 6), **call), [0.5, -0.5, 0.0, 0.0, 0.5, -0.5])
    # Upstream: min 10 and max 500 of the batch, lambda = 0.5 - (L - 10) / 490.
    batch = [0.5, -0.5, 0.5 - 10 / 490, 0.5 - 67 / 490, 0.5 - 90 / 490, 0.5 - 20 / 490]
    close(rewards.len(form([RIGHT] * 6), **call, group="batch"), batch)
    close(rewards.len(form([RIGHT] * 6), **{**call, "prompts": None}), batch)


def test_len_of_equal_lengths_is_0(form):
    close(rewards.len(form([RIGHT, WRONG]), ["4", "4"], completion_ids=ids(9, 9)), [0.0, 0.0])
    close(rewards.len(form([WRONG]), ["4"], completion_ids=ids(9)), [0.0])
    assert rewards.len([], [], completion_ids=[]) == []


def test_len_in_characters_over_the_batch_is_open_r1s_formula(form):
    # 20, 40, 60, 100 characters: 0.5 - (L - 20) / 80 = 0.5, 0.25, 0, -0.5, of which the last but one is wrong.
    texts = [padded(RIGHT, 20), padded(RIGHT, 40), padded(WRONG, 60), padded(RIGHT, 100)]
    call = {"answer": ["4"] * 4, "prompts": list("abcd"), "length_unit": "characters", "group": "batch"}
    close(rewards.len(form(texts), **call), [0.5, 0.25, 0.0, -0.5])
    close(rewards.len(form(texts), **{**call, "group": "prompt"}), [0.0] * 4)


def test_len_of_each_outcome(form, outcomes):
    # 10, 20, 30, 40, 50: lambda = 0.5 - (L - 10) / 40 = 0.5, 0.25, 0, -0.25, -0.5; the unparseable one sets the min.
    outcomes("unparseable_gold", "correct", "wrong", "timeout", "no_answer")
    call = {"completions": form([""] * 5), "answer": ["4"] * 5, "completion_ids": ids(10, 20, 30, 40, 50)}
    close(rewards.len(**call), [None, 0.25, 0.0, -0.25, -0.5])
    close(rewards.len(**call, unparseable_gold=0.5), [0.5, 0.25, 0.0, -0.25, -0.5])


def test_len_of_equal_lengths_leaves_out_an_unparseable_gold(outcomes):
    outcomes("unparseable_gold", "correct")
    close(rewards.len(["", ""], ["4", "4"], completion_ids=ids(9, 9)), [None, 0.0])


# cosine


def test_cosine_falls_for_right_answers_and_rises_for_wrong_ones_up_to_max_len(form):
    # 1 + cos(pi L / 100) at L = 0, 25, 50, 100, 250: 2, 1 + 1 / sqrt 2, 1, 0, and 0 again, clamped.
    lengths = ids(0, 25, 50, 100, 250)
    call = {"answer": ["4"] * 5, "completion_ids": lengths, "max_len": 100}
    quarter = 1 + 1 / sqrt(2)
    close(rewards.cosine(form([RIGHT] * 5), **call), [1.0, 0.5 + 0.25 * quarter, 0.75, 0.5, 0.5])
    wrong = [-1.0, -0.5 - 0.25 * quarter, -0.75, -0.5, -0.5]
    close(rewards.cosine(form([WRONG] * 5), **call), wrong)
    close(rewards.cosine(form([NONE] * 5), **call), wrong)


def test_cosine_with_bounds_of_its_own(form):
    # The paper's: right +2 at length 0 and +1 at the maximum, wrong -10 and 0; the means at half of it.
    bounds = {"min_value_correct": 1, "max_value_correct": 2, "min_value_wrong": -10, "max_value_wrong": 0}
    completions, call = form([RIGHT, RIGHT, RIGHT, WRONG, WRONG, WRONG]), {"answer": ["4"] * 6}
    lengths = ids(0, 700, 1400, 0, 700, 1400)
    paid = rewards.cosine(completions, **call, completion_ids=lengths, max_len=1400, **bounds)
    close(paid, [2.0, 1.5, 1.0, -10.0, -5.0, 0.0])


def test_cosine_divides_by_1000_by_default(form):
    close(rewards.cosine(form([RIGHT]), ["4"], completion_ids=ids(500)), [0.5 + 0.25 * (1 + cos(pi / 2))])


def test_cosine_in_characters_without_clamp_is_open_r1s_formula(form):
    # cos(pi L / 1000) at 1000, 1500, 2000, 3000, 4000 characters: -1, 0, 1, -1, 1.
    texts = [padded(RIGHT, characters) for characters in (1000, 1500, 2000, 3000, 4000)]
    call = {"answer": ["4"] * 5, "length_unit": "characters", "clamp": False}
    close(rewards.cosine(form(texts), **call), [0.5, 0.75, 1.0, 0.5, 1.0])
    texts = [padded(WRONG, characters) for characters in (1000, 1500, 2000, 3000, 4000)]
    close(rewards.cosine(form(texts), **call), [-0.5, -0.75, -1.0, -0.5, -1.0])
    close(rewards.cosine(form(texts), **{**call, "clamp": True}), [-0.5] * 5)


def test_cosine_of_each_outcome(form, outcomes):
    outcomes("unparseable_gold", "correct", "wrong", "timeout", "no_answer")
    call = {"completions": form([""] * 5), "answer": ["4"] * 5, "completion_ids": ids(0, 0, 0, 0, 0)}
    close(rewards.cosine(**call), [None, 1.0, -1.0, -1.0, -1.0])
    close(rewards.cosine(**call, unparseable_gold=1.0), [1.0, 1.0, -1.0, -1.0, -1.0])  # as upstream


@pytest.mark.parametrize("name", ["len", "cosine"])
def test_verdicts_are_logged_and_grade_options_passed_on(name, outcomes):
    function, logged = getattr(rewards, name), {}
    function([RIGHT, NONE], ["4", "4"], completion_ids=ids(1, 2), log_extra=logged.__setitem__)
    assert logged[f"verdict/{name}"] == ["correct", "no_answer"]
    assert logged[f"extracted/{name}"] == ["4", None]
    assert set(logged) == {f"verdict/{name}", f"extracted/{name}", f"rule/{name}"}
    function(["#### 4"], ["4"], completion_ids=ids(1), log_extra=logged.__setitem__, convention="hashes")
    assert logged[f"extracted/{name}"] == ["4"]
    seen = outcomes("correct")
    function([RIGHT], ["4"], completion_ids=ids(1), grader="open_r1")
    options = {"convention": None, "unfinished_thoughts": False, "grader": "open_r1"}
    assert seen == {"name": name, "options": options}


# repetition_penalty


def test_repetition_penalty_is_the_share_of_repeated_ngrams(form):
    texts = [
        "a b c d e",  # abc bcd cde: 3 of 3 differ
        "a a a a a",  # aaa three times: 1 of 3
        "a b c A B C",  # abc bca cab abc, in lower case: 3 of 4
        "a b c a b C a b",  # abc bca cab abc bca cab: 3 of 6
        "a b",  # shorter than an n-gram
        "",
    ]
    close(rewards.repetition_penalty(form(texts)), [0.0, -(1 - 1 / 3), -(1 - 3 / 4), -(1 - 3 / 6), 0.0, 0.0])


def test_repetition_penalty_with_other_sizes_and_scales(form):
    # a b a b a: the words a, b are 2 of 5; ab ba ab ba are 2 of 4; the one 5-gram is 1 of 1.
    texts = form(["a b a b a"])
    close(rewards.repetition_penalty(texts, ngram_size=1), [-(1 - 2 / 5)])
    close(rewards.repetition_penalty(texts, ngram_size=2, max_penalty=-0.1), [-0.1 * (1 - 2 / 4)])
    close(rewards.repetition_penalty(texts, ngram_size=5), [0.0])
    close(rewards.repetition_penalty(texts, ngram_size=6), [0.0])
    close(rewards.repetition_penalty(texts, max_penalty=0), [0.0])


def test_repetition_penalty_of_tokens_is_trls(form):
    # Of 2-grams: 12 23 34 differ; 55 four times is 1 of 4; a single token has none. The text does not count.
    paid = rewards.repetition_penalty(
        form(["a a a a"] * 3), completion_ids=[[1, 2, 3, 4], [5] * 5, [1]], unit="tokens", ngram_size=2
    )
    close(paid, [0.0, -(1 - 1 / 4), 0.0])


# soft_overlong


def test_soft_overlong_is_linear_over_the_cache(form):
    # free 80: 0 up to it; (80 - L) / 20 for 81, 90, 100: -0.05, -0.5, -1; -1 beyond.
    paid = rewards.soft_overlong(
        form([""] * 6), completion_ids=ids(0, 80, 81, 90, 100, 101), max_completion_len=100, soft_punish_cache=20
    )
    close(paid, [0.0, 0.0, -0.05, -0.5, -1.0, -1.0])


def test_soft_overlong_at_its_edges():
    lengths = ids(50, 100, 101)
    without = rewards.soft_overlong([""] * 3, lengths, max_completion_len=100, soft_punish_cache=0)
    close(without, [0.0, 0.0, -1.0])
    whole = rewards.soft_overlong([""] * 3, lengths, max_completion_len=100, soft_punish_cache=100)
    close(whole, [-0.5, -1.0, -1.0])
    # DAPO's: 16384 free, 4096 more up to 20480; half of them cost half.
    close(rewards.soft_overlong([""] * 3, ids(16384, 18432, 20480)), [0.0, -0.5, -1.0])


# all of them

MEASURED_IN_TOKENS = {
    "len": {},
    "cosine": {},
    "soft_overlong": {},
    "repetition_penalty": {"unit": "tokens"},
}


@pytest.mark.parametrize(("name", "options"), MEASURED_IN_TOKENS.items())
def test_tokens_need_completion_ids(name, options):
    function = getattr(rewards, name)
    gold = {"answer": ["4"]} if name in ("len", "cosine") else {}
    expected = f"^reward '{name}' got no completion_ids; it needs a list of token ids a completion: pass them, .*[^\n]$"
    with pytest.raises(InputError, match=expected):
        function([RIGHT], **gold, **options)


BAD = [
    ("format", {"style": "thnk"}, r"style is 'thnk'; it must be think_answer or think or .* \(did you mean think\?\)"),
    ("format", {"style": ["a", "b"]}, r"style is \['a', 'b'\]; it must be think_answer or"),  # a column of that name
    ("tag_count", {"strict_newlines": "no"}, "strict_newlines is 'no'; it must be True or False"),
    ("reasoning_steps", {"multiline": None}, "multiline is None; it must be True or False"),
    ("len", {"length_unit": "token"}, r"length_unit is 'token'; .* \(did you mean tokens\?\)"),
    ("len", {"group": "all"}, "group is 'all'; it must be prompt or batch"),
    ("len", {"unparseable_gold": "skip"}, "unparseable_gold is 'skip'; it must be a number such as 0.0"),
    ("cosine", {"length_unit": "words"}, "length_unit is 'words'; it must be tokens or characters"),
    ("cosine", {"max_len": 0}, "max_len is 0; it must be a whole number >= 1 such as 1000"),
    ("cosine", {"max_len": "1e3"}, "max_len is '1e3'; it must be a whole number"),
    ("cosine", {"clamp": "yes"}, "clamp is 'yes'; it must be True or False"),
    ("cosine", {"max_value_wrong": "low"}, "max_value_wrong is 'low'; it must be a number"),
    ("cosine", {"min_value_correct": float("nan")}, "min_value_correct is nan; it must be a number"),
    ("cosine", {"max_value_correct": 0.4}, "min_value_correct is 0.5; it must be <= max_value_correct, which is 0.4"),
    ("cosine", {"unparseable_gold": float("nan")}, "unparseable_gold is nan; it must be a number"),
    ("repetition_penalty", {"ngram_size": 0}, "ngram_size is 0; it must be a whole number >= 1 such as 3"),
    ("repetition_penalty", {"ngram_size": 2.5}, "ngram_size is 2.5; it must be a whole number"),
    ("repetition_penalty", {"max_penalty": 0.5}, "max_penalty is 0.5; it must be a number <= 0 such as -1.0"),
    ("repetition_penalty", {"max_penalty": float("-inf")}, "max_penalty is -inf; it must be a number"),
    ("repetition_penalty", {"unit": "characters"}, "unit is 'characters'; it must be words or tokens"),
    ("soft_overlong", {"max_completion_len": -1}, "max_completion_len is -1; it must be a whole number >= 1"),
    ("soft_overlong", {"soft_punish_cache": -1}, "soft_punish_cache is -1; it must be a whole number >= 0"),
    (
        "soft_overlong",
        {"max_completion_len": 100},
        "soft_punish_cache is 4096; it must be <= max_completion_len, which is 100",
    ),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_parameters_are_named_even_without_samples(name, options, message):
    function = getattr(rewards, name)
    gold = {"answer": []} if name in ("len", "cosine") else {}
    with pytest.raises(InputError, match=f"^{message}[^\n]*$"):
        function(completions=[], completion_ids=[], **gold, **options)


SHIPPED = ["format", "tag_count", "reasoning_steps", "len", "cosine", "repetition_penalty", "soft_overlong"]


@pytest.mark.parametrize("name", SHIPPED)
def test_each_takes_the_trainers_call_and_bears_its_name(name, form):
    function = getattr(rewards, name)
    columns = {"prompts": ["p", "p"], "answer": ["4", "4"], "topic": ["x", "x"], "trainer_state": None}
    hooks = {"log_extra": lambda column, values: None, "log_metric": lambda metric, value: None}
    paid = function(completions=form([RIGHT, WRONG]), completion_ids=ids(3, 4), **columns, **hooks)
    assert len(paid) == 2
    assert all(isinstance(value, float) for value in paid)
    assert function.__name__ == name
    parameters = inspect.signature(function).parameters.values()
    assert all(item.default is not item.empty for item in parameters if item.kind is item.KEYWORD_ONLY)


LONG = ["<think>", "</think>", "\n</think>\n", "<think>\n", "\n1111", "1" * 50, "Step 1", "\n- ", " \n", "a b "]


@pytest.mark.parametrize("piece", LONG)
def test_long_degenerate_completions_finish(piece):
    """Work that grows with the square of the length would take minutes at 300,000 characters."""
    text = piece * (300_000 // len(piece))
    for style in ("think_answer", "think", "closing_line"):
        assert rewards.format([text], style=style) == [0.0]
        assert rewards.format([f"<think>{text}</think><answer>{text}</answer>"], style=style) in ([0.0], [1.0])
    for option in (True, False):
        assert 0.0 <= rewards.tag_count([text], strict_newlines=option)[0] <= 1.0
        assert 0.0 <= rewards.reasoning_steps([text], multiline=option)[0] <= 1.0
    assert -1.0 < rewards.repetition_penalty([text])[0] <= 0.0
    tokens = [list(text.encode())]
    assert -1.0 < rewards.repetition_penalty([text], tokens, unit="tokens")[0] < -0.9
    assert rewards.soft_overlong([text], tokens) == [-1.0]
    graded = text + RIGHT
    assert rewards.cosine([graded], ["4"], length_unit="characters", unfinished_thoughts=True) == [0.5]
    assert rewards.len([graded, RIGHT], ["4", "4"], length_unit="characters") == [-0.5, 0.5]


def test_cosine_takes_the_published_values_for_wrong_answers():
    # The scripts pass 0.0 and -0.5: a wrong answer pays 0.0 at once and falls to -0.5 at max_len.
    paid = REWARDS["cosine"](
        completions=["<answer>5</answer>"] * 3, answer=["4"] * 3, completion_ids=[[], [0] * 50, [0] * 100],
        max_len=100, min_value_wrong=0.0, max_value_wrong=-0.5,
    )  # fmt: skip
    assert paid == pytest.approx([0.0, -0.25, -0.5])
