import pytest

from aapo.errors import InputError
from aapo.fields import typed


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
