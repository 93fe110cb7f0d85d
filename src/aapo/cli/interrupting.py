"""What an interrupted command says: what it has kept, and how to go on."""

from typing import Any

from typer.core import TyperGroup

from aapo.errors import AapoError

_SAMPLES = "the samples and scores so far are kept; the same command goes on from them"
_KEPT = {
    "bank": _SAMPLES,
    "eval": _SAMPLES,
    "compare": "its runs stop, each with a checkpoint; the same command goes on from them",
    "grade": "the verdicts so far are kept; the same command goes on from them",
}
_NOTHING = "nothing is half-written; the same command begins again"


def interrupted(by: KeyboardInterrupt, kept: str) -> AapoError:
    """The error of a command that a signal has ended, with what is kept and how to go on."""
    name = by.args[0] if by.args else "SIGINT"
    return AapoError(f"{'interrupted' if name == 'SIGINT' else f'stopped by {name}'}; {kept}")


class Commands(TyperGroup):
    """The subcommands; Typer itself would end an interrupted one without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand.

        Raises:
            AapoError: It was interrupted, or failed.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise interrupted(error, _KEPT.get(ctx.invoked_subcommand or "", _NOTHING)) from error
