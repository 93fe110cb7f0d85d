import pytest

from aapo.errors import InputError
from aapo.fields import parse_flags, read_mapping, typed


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        ("1.0,1.0", list[float] | None, [1.0, 1.0]),
        ("1e-3", list[float], [1e-3]),
        (2, list[float] | None, [2.0]),
        ([1, "1e-3"], list[float], [1.0, 1e-3]),
        ("accuracy, format", list[str], ["accuracy", "format"]),
        (["accuracy", 1], list[str], ["accuracy", "1"]),
        ("1,2", list[int], [1, 2]),
        ("none", None | str | list[str], "none"),
        (3, list[int] | int, 3),
        ({"a": 1}, dict | None, {"a": 1}),
        ("a,b", list | None, ["a", "b"]),
        (None, list[float] | None, None),
    ],
)
def test_a_list_may_be_given_with_commas_or_as_its_only_item(value, kind, read):
    found = typed("field", value, kind)
    assert found == read and type(found) is type(read)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a,1", "field is 'a'; it must be a number"),
        ([1.0, "x"], "field is 'x'; it must be a number"),
        ([True], "field is True; it must be a number"),
        ({"a": 1}, "field is {'a': 1}; it must be a list"),
    ],
)
def test_every_item_of_a_list_is_checked(value, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        typed("field", value, list[float] | None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 1\n", "a is given twice, in lines 1 and 3; keep one"),
        ("a:\n  b: 1\n  c: 2\n  'b': 3\n", "b is given twice, in lines 2 and 4; keep one"),
        ("list:\n- {x: 1, x: 2}\n", "x is given twice, in line 2; keep one"),
        ("1: a\n2: b\n1: c\n", "1 is given twice, in lines 1 and 3; keep one"),
    ],
)
def test_a_key_that_a_mapping_has_twice_is_named_with_its_lines(text, words):
    with pytest.raises(InputError, match=f"^recipe x: {words}$"):
        read_mapping(text, "recipe x")


def test_a_key_that_is_merged_or_of_another_mapping_or_type_is_not_there_twice():
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}\nd: *b\n1: x\n'1': y\n"
    b = {"x": 2, "y": 1}
    assert read_mapping(text, "recipe x") == {
        "a": {"x": 1, "y": 1}, "b": b, "c": {**b, "y": 3}, "d": b, 1: "x", "1": "y",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--seed", "1", "--seed=2"), "--seed is given twice; leave one out"),
        (("--max-steps", "1", "--max_steps", "1"), "--max_steps is given twice; leave one out"),
        (("--kwargs.a", "1", "--kwargs.a", "2"), "--kwargs.a is given twice; leave one out"),
        (("--kwargs", "{a: 1, a: 2}"), "--kwargs: a is given twice, in line 1; keep one"),
    ],
)
def test_a_flag_that_is_given_twice_is_refused(flags, words):
    with pytest.raises(InputError, match=f"^{words}$"):
        parse_flags(flags)


@pytest.mark.parametrize(
    "text", ["{question}", "[a]", "'quoted'", "007", "1e5", "yes", "Say: why?", "# no comment", "a\n b", " "]
)
def test_the_flag_of_a_text_is_taken_as_it_stands(text):
    assert parse_flags(["--a", text, f"--b={text}"], {"a": str, "b": str | None}) == {"a": text, "b": text}


def test_null_takes_a_text_back_and_other_fields_are_read_as_yaml():
    kinds = {"a": str | None, "b": str | bool, "c": dict, "d": int}
    given = parse_flags(["--a", "null", "--b", "false", "--c", "{x: 1}", "--d", "7"], kinds)
    assert given == {"a": None, "b": False, "c": {"x": 1}, "d": 7}


def test_an_item_of_a_list_that_is_no_yaml_is_refused_like_any_other():
    with pytest.raises(InputError, match=r"^field is '\{'; it must be a number$"):
        typed("field", "1,{", list[float])
