"""Sentences on what was fixed before a comparison: its plan file, and the settings that were chosen by tuning."""

from collections.abc import Mapping
from typing import Any


def registered_words(summary: Mapping[str, Any]) -> list[str]:
    """By which plan a comparison went and how its settings were chosen; nothing where it has neither."""
    plan, tuning = summary.get("plan"), summary.get("tuning")
    return [*([_plan(plan)] if plan else []), *([_tuning(tuning)] if tuning else [])]


def _plan(plan: Mapping[str, Any]) -> str:
    """By which plan a comparison went, and whether that stood before its first run."""
    first, *later = plan["plans"]
    words = f"Plan {first['file']}, sha256 {first['sha256']}, registered {first['registered']}"
    words += f" when {first['runs_begun']} runs had begun" if first["runs_begun"] else " before the first run"
    changes = [f"{item['sha256'][:12]} when {item['runs_begun']} runs had begun" for item in later]
    return f"{words}; {'changed: ' + ', '.join(changes) if changes else 'not changed since'}."


def _tuning(tuning: Mapping[str, Any]) -> str:
    """One sentence: what was tried, and by which rule one was chosen."""
    tried = ", ".join(f"{field} of {', '.join(map(str, values))}" for field, values in tuning["grid"].items())
    seeds, chosen = ", ".join(map(str, tuning["seeds"])), ", ".join(map(_chosen, tuning["choices"]))
    return (
        f"{tuning['configurations']} configurations were tried for {len(tuning['choices'])} algorithms ({tried}), in "
        f"{tuning['runs']} runs with seeds {seeds}; chosen by {tuning['rule']}: {chosen}."
    )


def _chosen(choice: Mapping[str, Any]) -> str:
    """An algorithm and what was chosen for it."""
    return " ".join([choice["label"], *(f"{key}={value}" for key, value in choice["tuned"].items())])
