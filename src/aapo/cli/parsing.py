"""How the command line is read: each option once."""

from typing import Any

import typer
from typer.core import TyperCommand

from aapo.errors import InputError


class Command(TyperCommand):
    """A subcommand that refuses an option that is given twice, of which Typer takes the last without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments.

        Raises:
            InputError: An option that is no list is given twice.
        """
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for parameter in order:
            if order.count(parameter) > 1 and not getattr(parameter, "multiple", False):
                raise InputError(f"{max(parameter.opts, key=len)} is given twice; leave one out")
        return super().parse_args(ctx, args)


class App(typer.Typer):
    """A Typer whose subcommands are `Command`s."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Declare a subcommand."""
        return super().command(name, **{"cls": Command, **options})
