"""What `aapo merge` and `aapo publish` do."""

from pathlib import Path

from aapo.progress import console
from aapo.publishing import merge_adapter, publish, push


def merge(source: str, output: Path | None) -> None:
    """Merge an adapter and print where."""
    console.print(f"merged model {merge_adapter(source, output)}")


def publish_run(source: str, output: Path | None, repository: str | None, *, private: bool, adapter: bool) -> None:
    """Write the folder, and push it if a repository is named."""
    folder = publish(source, output, repository=repository, adapter=adapter)
    console.print(f"model folder {folder}; its card is {folder / 'README.md'}")
    if repository is not None:
        console.print(f"pushed {push(folder, repository, private=private)}")
