"""What `aapo replay` does."""

from collections.abc import Sequence
from pathlib import Path

from aapo.cli.tables import print_table
from aapo.experiments import replay_run, replay_tables
from aapo.files import check_file, write_json
from aapo.progress import console, told_progress
from aapo.runs import RunDirectory


def replay(path: Path, algorithms: Sequence[str], bank: Path | None, output: Path | None) -> None:
    """Replay algorithms on a run's rollouts, print the tables and write the results."""
    if output is not None:
        check_file(output, "--output")
    run = RunDirectory.open(path)
    with told_progress("replaying steps") as tell:
        result = replay_run(run, list(dict.fromkeys(algorithms)) or None, bank, tell=tell)
    for table in replay_tables(result):
        print_table(table)
    for reason in dict.fromkeys(result.refused.values()):
        names = ", ".join(name for name, given in result.refused.items() if given == reason)
        console.print(f"not replayed: {names}, because {reason}")
    if output is not None:
        write_json(output, result.describe())
        console.print(f"results {output}")
