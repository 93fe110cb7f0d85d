"""Errors that are meant for the user; the command line prints them as one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class AapoError(Exception):
    """Something failed while running; the message says what and how to go on. Exit code 1."""


class InputError(AapoError, ValueError):
    """What the user gave is wrong; the message says what it was, what is allowed and the fix. Exit code 2."""


class FullDiskError(AapoError):
    """Nothing more can be written; the message says what could not be."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """` (did you mean X?)` for the nearest of `allowed`, or the empty string where none is near."""
    matches = get_close_matches(name, list(allowed), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""
