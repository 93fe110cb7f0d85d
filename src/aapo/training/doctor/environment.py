"""The environment: versions of packages, device, disk."""

import os
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement

import aapo
from aapo.runs import cache_folder
from aapo.training.findings import Finding
from aapo.training.memory import GIB
from aapo.training.run import free_space

# What a quickstart leaves in the cache and in its run directory stays under this.
MIN_FREE_GIB = 2.0
MAIN_PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "math-verify")


def environment_findings() -> list[Finding]:
    """What this environment has and lacks for any training."""
    return [*package_findings(), device_finding(), disk_finding()]


def package_findings() -> Iterator[Finding]:
    """Packages that are missing or outside the range that this package declares, and main ones that are not as tested.

    The tested versions are the pins of `constraints.txt`, which only a checkout has.
    """
    needed = [Requirement(text) for text in requires("aapo") or []]
    needed = [item for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    pins, wrong = tested_versions(), False
    install = "pip install --constraint constraints.txt --editable ."
    for item in needed:
        installed = installed_version(item.name)
        if installed is None:
            yield Finding("error", "packages", f"{item.name} is not installed", install, "README.md")
        elif not item.specifier.contains(installed, prereleases=True):
            text = f"{item.name} {installed} is installed, and aapo needs {item.specifier}"
            yield Finding("warning", "packages", text, install, "README.md")
        elif item.name in MAIN_PACKAGES and installed.partition("+")[0] != (pin := pins.get(item.name, installed)):
            yield Finding("note", "packages", f"{item.name} {installed} is installed; aapo is tested with {pin}")
        else:
            continue
        wrong = True
    if not wrong:
        shown = ", ".join(f"{name} {installed_version(name)}" for name in MAIN_PACKAGES)
        yield Finding("ok", "packages", f"packages are as aapo needs them: {shown}")


def installed_version(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def tested_versions() -> dict[str, str]:
    """The pins of the checkout that this package runs from; none where it was installed otherwise."""
    file = Path(aapo.__file__).parents[2] / "constraints.txt"
    if not file.exists():
        return {}
    lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    pinned = (line.partition("==") for line in lines if "==" in line)
    return {name.lower().replace("_", "-"): pin for name, _, pin in pinned}


def device_finding() -> Finding:
    """The accelerator that torch can use, or why there is none."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
        return Finding("ok", "device", f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free on the first")
    if shutil.which("nvidia-smi"):
        text = f"there is an NVIDIA driver, but torch {torch.__version__} sees no GPU"
        return Finding("warning", "device", text, "install a build of torch for the driver's CUDA", "docs/launch.md")
    text = f"no GPU that torch {torch.__version__} can use; {os.cpu_count()} CPU cores, {ram() / GIB:.1f} GiB of memory"
    return Finding("note", "device", text, "", "docs/launch.md")


def ram() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def disk_finding() -> Finding:
    """Free space where runs go and where built models and banks are kept."""
    free = {str(folder): free_space(folder) / GIB for folder in (Path.cwd(), cache_folder())}
    shown = ", ".join(f"{space:.1f} GiB in {folder}" for folder, space in free.items())
    if min(free.values()) < MIN_FREE_GIB:
        advice = "free some, or set AAPO_CACHE and --output_dir to folders elsewhere"
        return Finding("warning", "disk", f"little free space: {shown}", advice)
    return Finding("ok", "disk", f"free space: {shown}")
