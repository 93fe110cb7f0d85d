"""What runs beside any framework imports none, and what is asked for often imports little."""

import subprocess
import sys

import pytest

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Blocked())
"""
FRAMEWORKS = ("trl", "verl", "transformers", "peft", "accelerate", "vllm")


def in_process(code, *arguments, blocked=FRAMEWORKS):
    script = BLOCKED.format(blocked=blocked) + code
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


FREE = (
    "objective", "records", "grading", "tasks", "bank", "learning.batch", "learning.redraw", "learning.refill",
    "learning.rollouts", "learning.curriculum", "recipe", "recipe.importing", "reporting", "runs",
)  # fmt: skip


def test_layers_that_need_no_framework_import_without_any():
    done = in_process("\n".join(f"import aapo.{module}" for module in FREE))
    assert done.returncode == 0, done.stderr
    assert "ModuleNotFoundError" in in_process("import aapo.backends.trl.trainer").stderr


def test_a_recipe_is_resolved_and_a_missing_framework_is_one_line(tmp_path):
    resolved = "from aapo.recipe import load_recipe; print(load_recipe('qwen2.5-math-7b-simplelr').uses_bank)"
    done = in_process(resolved)
    assert done.stdout == "True\n", done.stderr
    done = in_process(
        "from aapo.cli import main; main()", "train", "quickstart", "--output_dir", str(tmp_path / "run"),
        blocked=("trl",),
    )  # fmt: skip
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert done.stderr.strip() == "aapo: backend is trl, which needs trl; pip install 'aapo[trl]'"


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], ("torch", "datasets", "pyarrow", *FRAMEWORKS)),
        (["recipes"], ("torch", "datasets", "pyarrow", *FRAMEWORKS)),
        (["report", "nowhere"], FRAMEWORKS),
        (["replay", "nowhere"], FRAMEWORKS),
    ],
)
def test_what_is_asked_for_often_imports_little(arguments, heavy):
    done = in_process("from aapo.cli import main; main()", *arguments, blocked=heavy)
    assert done.returncode == (2 if "nowhere" in arguments else 0), done.stderr
    assert "Error" not in done.stderr and "No module" not in done.stderr
