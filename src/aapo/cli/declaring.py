"""The `aapo` command's groups of subcommands, and what their declarations share."""

from pathlib import Path
from typing import Annotated

import typer

from aapo.cli.interrupting import Commands
from aapo.cli.parsing import App
from aapo.errors import InputError, nearest

FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True}
RECIPE_HELP = "A shipped recipe's name, a .yaml file, or a run directory."

app = App(
    cls=Commands,
    help="Teach language models to reason with AAPO and verifiable rewards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
bank_app = App(help="Build, inspect and rescore reference banks.", no_args_is_help=True)
base_app = App(help="Build small base models from scratch.", no_args_is_help=True)
app.add_typer(bank_app, name="bank")
app.add_typer(base_app, name="base")
export_app = App(help="Write our tasks for other tools.", no_args_is_help=True)
app.add_typer(export_app, name="export")

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)]
BankArgument = Annotated[Path, typer.Argument(metavar="BANK", help="A bank's folder.")]
OutputOption = Annotated[Path | None, typer.Option("--output", help="Folder to write to.")]


def listed(text: str) -> list[str]:
    """What stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def named(option: str, text: str) -> list[str]:
    """What an option lists, which is something.

    Raises:
        InputError: It is nothing.
    """
    if not (names := listed(text)):
        raise InputError(f"{option} is empty; name at least one, with commas between several")
    return names


def whole(option: str, text: str) -> int:
    """The whole number that an option lists.

    Raises:
        InputError: It is none.
    """
    if not text.isdecimal():
        raise InputError(f"{option} is {text!r}; it must be whole numbers with commas")
    return int(text)


def shipped(folder: str, name: str | None) -> None:
    """List the YAML files of a folder of the package with their first lines, or print one."""
    from importlib.resources import files

    texts = {
        Path(entry.name).stem: entry.read_text(encoding="utf-8")
        for entry in (files("aapo") / folder).iterdir()
        if entry.name.endswith(".yaml")
    }
    if name is None:
        for key in sorted(texts):
            print(f"{key:46} {texts[key].splitlines()[0].lstrip('# ')}")
    elif name in texts:
        print(texts[name], end="")
    else:
        what = folder.removesuffix("s")
        raise InputError(f"unknown {what} {name!r}{nearest(name, texts)}; shipped are {', '.join(sorted(texts))}")
