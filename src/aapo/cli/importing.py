"""What `aapo import-config` does."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from aapo.errors import InputError
from aapo.files import check_file, read_text, write_text
from aapo.progress import console
from aapo.recipe import recipe_flags
from aapo.recipe.importing import import_config, read_sources


def import_files(
    paths: Sequence[Path], output: Path, flags: Sequence[str], *, source_format: str | None, exact: bool
) -> None:
    """Write the recipe that published files make, and print what became of every key.

    Raises:
        InputError: A key cannot be taken over, or the output holds another recipe.
    """
    check_file(output, "--output")
    found = import_config(read_sources(paths), format=source_format, exact=exact, given=recipe_flags(flags))
    text = found.text([path.name for path in paths])
    if output.exists() and read_text(output, str(output)) != text:
        raise InputError(f"{output} exists and is another recipe; choose another --output, or remove it")
    write_text(output, text)
    table = Table("key", "", "here", box=box.SIMPLE, title=f"{found.format} settings", title_justify="left")
    for fate in found.fates:
        table.add_row(fate.key, fate.kind, fate.note)
    console.print(table)
    console.print(f"recipe {output}; plan it with `aapo train {output} --dry-run`")
