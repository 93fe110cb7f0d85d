"""A data set's row as JSON text and back, with every value as it was."""

import base64
import json
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

from aapo.errors import InputError

_TYPE, _TEXT = "$type", "$text"


class _Form(NamedTuple):
    """How values of a type that JSON lacks are written and read."""

    kind: type
    write: Callable[[Any], str]
    read: Callable[[str], Any]


# A datetime is a date, so it is looked for first.
_FORMS = {
    "datetime": _Form(datetime, datetime.isoformat, datetime.fromisoformat),
    "date": _Form(date, date.isoformat, date.fromisoformat),
    "time": _Form(time, time.isoformat, time.fromisoformat),
    "decimal": _Form(Decimal, str, Decimal),
    # An object that looks like a mark itself, as its pairs.
    "dict": _Form(dict, lambda value: _text(list(value.items())), lambda text: dict(read_row(text))),
    "bytes": _Form(bytes, lambda value: base64.b64encode(value).decode(), base64.b64decode),
}


def write_row(row: dict[str, Any]) -> str:
    """The row as JSON text; dates, times, decimals and bytes are marked as what they are.

    Raises:
        InputError: A column holds something else that JSON lacks; the message names it.
    """
    cells = []
    for column, value in row.items():
        try:
            cells.append(f"{json.dumps(column)}: {_text(_unlike_marks(value))}")
        except TypeError as error:
            raise InputError(
                f"the data set's column {column!r} holds values of type {error}, which a bank cannot store; turn them "
                "into text"
            ) from error
    return f"{{{', '.join(cells)}}}"


def read_row(text: str) -> Any:
    """The row that `write_row` wrote."""
    return json.loads(text, object_hook=_unmarked)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_marked)


def _unlike_marks(value: Any) -> Any:
    """The value, with every object of it that looks like a mark as a mark of itself."""
    if isinstance(value, dict):
        inner = {key: _unlike_marks(item) for key, item in value.items()}
        return {_TYPE: "dict", _TEXT: _FORMS["dict"].write(inner)} if _is_mark(inner) else inner
    return [_unlike_marks(item) for item in value] if isinstance(value, (list, tuple)) else value


def _is_mark(item: dict[Any, Any]) -> bool:
    return item.keys() == {_TYPE, _TEXT}


def _marked(value: Any) -> dict[str, str]:
    for name, form in _FORMS.items():
        if isinstance(value, form.kind):
            return {_TYPE: name, _TEXT: form.write(value)}
    raise TypeError(type(value).__name__)


def _unmarked(item: dict[str, Any]) -> Any:
    return _FORMS[item[_TYPE]].read(item[_TEXT]) if _is_mark(item) else item
