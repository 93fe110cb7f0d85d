"""The README's Python runs as it stands, on a tiny model instead of the one it names."""

import json
import re
from pathlib import Path

from aapo import Protocol

README = Path(__file__).parents[2] / "README.md"


def test_the_python_of_the_readme_runs(tiny_folder, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    problems = [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(3)]
    Path("my_problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    small = "max_completion_length=8, max_steps=2, bf16=False, use_cpu=True, report_to='none', disable_tqdm=True"
    code = blocks[0].replace("Qwen/Qwen2.5-1.5B-Instruct", str(tiny_folder))
    tasks = '["math_500", "reasoning_gym:basic_arithmetic"]'
    assert tasks in code  # which are elsewhere, and long
    quick = "Protocol(max_completion_length=4, num_samples=2)"
    code = code.replace(tasks, f'"my_problems.jsonl", {quick}')
    names: dict = {"Protocol": Protocol}
    exec(code.replace("max_completion_length=1024", small), names)
    assert names["trainer"].state.global_step == 2 and len(names["bank"]) == 3
    assert names["found"].task == "my_problems" and names["found"].num_samples == 2
    from aapo.objective import ALGORITHMS

    try:
        exec(blocks[1], {})
        assert "my-idea" in ALGORITHMS
    finally:
        ALGORITHMS.pop("my-idea", None)
