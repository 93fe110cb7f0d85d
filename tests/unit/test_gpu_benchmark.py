"""The benchmark for a GPU, on the CPU in miniature."""

import json
import math
import re
import sys
import time
from pathlib import Path

import pytest
import torch

from gpu import bench
from gpu.cases import Case, measured
from gpu.device import Peak, Shape, model_of, peak_of

SHAPE = Shape(hidden=32, intermediate=48, layers=2, heads=4, kv_heads=2, vocab=320)


def numbers(value, path=""):
    """Every number in a report by where it is."""
    if isinstance(value, dict):
        return [found for key, part in value.items() for found in numbers(part, f"{path}/{key}")]
    if isinstance(value, list):
        return [found for i, part in enumerate(value) for found in numbers(part, f"{path}/{i}")]
    return [(path, value)] if isinstance(value, int | float) else []


@pytest.mark.slow
def test_all_of_it_runs_in_miniature(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AAPO_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "report.json"
    assert bench.main(bench.arguments(["--miniature", "--one-process", "--output", str(output)])) == 0
    report = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out) == report  # and nothing else is printed
    cases = {name: part["cases"] for name, part in report["parts"].items()}
    assert list(cases["training"]) == [
        "attention", "phase/tiny", "step/tiny/aapo_bank", "step/tiny/grpo", "step/tiny/aapo_live",
    ]  # fmt: skip
    assert list(cases["rollouts"]) == ["tiny/16/fixed", "tiny/16/early"]
    assert list(cases["scratch"]) == ["base", "aapo/0", "grpo/0", "dapo/0"]
    for part in cases.values():
        for name, case in part.items():
            assert "error" not in case and "skipped" not in case, (name, case)
    assert all(math.isfinite(number) for _, number in numbers(report))
    assert {"torch", "transformers", "trl"} <= set(report["versions"]) and report["device"]["name"] == "cpu"

    attention = cases["training"]["attention"]
    assert all(1e-4 < attention[f"{name}_error"] < 2e-2 for name in ("output", "query", "key", "value"))  # of bf16
    for lengths in ("spread", "equal"):
        phase = cases["training"]["phase/tiny"][lengths]
        assert phase["gradient_error"] < 2e-2 and phase["padded_to_packed"] > 0 and phase["packed"]["mfu"] > 0
    assert cases["training"]["step/tiny/grpo"]["mean_tokens"] == 4
    for case in cases["rollouts"].values():
        assert case["places"]["to_generate"] > 0 and case["generate"]["to_generate"] == 1
    assert cases["rollouts"]["tiny/16/fixed"]["places"]["of_roofline"] > 0
    assert cases["rollouts"]["tiny/16/fixed"]["mean_tokens"] == 6 > cases["rollouts"]["tiny/16/early"]["mean_tokens"]
    assert cases["scratch"]["aapo/0"]["problems"] == 4


def test_what_fails_or_has_no_time_says_so_and_the_others_go_on():
    kept = []

    def fail():
        raise ValueError("no such kernel")

    cases = [Case("broken", fail), Case("fine", lambda: {"rate": 3})]
    results = measured(cases, time.time() + 100, lambda found: kept.append(list(found)))
    assert results["broken"]["error"] == "ValueError: no such kernel"
    assert results["fine"]["rate"] == 3 and results["fine"]["seconds"] >= 0
    assert kept == [["broken"], ["broken", "fine"]]
    late = measured(cases, time.time() - 1, kept.append)
    assert {name: list(found) for name, found in late.items()} == {"broken": ["skipped"], "fine": ["skipped"]}


def test_a_case_is_not_begun_where_the_longest_would_not_fit():
    def slow():
        time.sleep(0.2)
        return {}

    results = measured([Case("slow", slow), Case("next", dict)], time.time() + 0.3, lambda found: None)
    assert "seconds" in results["slow"] and "skipped" in results["next"]


def test_what_a_part_had_when_its_process_broke_is_kept(tmp_path, monkeypatch):
    (tmp_path / "rollouts.json").write_text(json.dumps({"device": {"name": "card"}, "cases": {"one": {"rate": 1}}}))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    part = bench.part_in_process("rollouts", time.time() + 5, tmp_path)
    assert part["error"] == "the process ended with 1" and part["cases"] == {"one": {"rate": 1}}
    assert bench.part_in_process("scratch", time.time() + 5, tmp_path)["cases"] == {}


def test_without_a_gpu_it_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(bench.arguments([])) == 1
    assert "--miniature" in capsys.readouterr().err


def test_peaks_are_those_of_the_card():
    measured_peak = Peak(1.0, 2.0, "measured")
    assert peak_of("NVIDIA H100 80GB HBM3", measured_peak) == (989e12, 3.35e12, "data sheet")
    assert peak_of("NVIDIA H100 PCIe", measured_peak).bandwidth == 2.0e12
    assert peak_of("NVIDIA H200", measured_peak).bandwidth == 4.8e12
    assert peak_of("another", measured_peak) == measured_peak


def test_operations_and_bytes_are_those_of_the_weights():
    tokenizer = type("Tokens", (), {"eos_token_id": 1, "pad_token_id": 0})()
    model = model_of(SHAPE, tokenizer, "cpu", torch.float32)
    products = sum(p.numel() for name, p in model.named_parameters() if "proj.weight" in name)
    assert SHAPE.layer_weights == products
    # one group: a prompt of 3 tokens, completions of 1 and 5 tokens, of which the last are left out
    tokens, pairs, scored = 3 + 0 + 4, 3 * 3 / 2 + 0 + (4 * 3 + 4 * 4 / 2), 6
    expected = 3 * (2 * (products * tokens + 320 * 32 * scored) + 4 * 32 * 2 * pairs)
    assert SHAPE.training_flops([3], [[1, 5]]) == expected
    # keys and values, 2 layers, 2 heads of 8, 2 bytes
    assert SHAPE.cache_bytes(10, 2) == 10 * 2 * 2 * 2 * 8 * 2


def test_no_report_names_a_folder_of_a_machine():
    reports = list((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json*"))
    assert len(reports) > 10
    found = {path.name: re.findall(r'"/[a-z]+/[^"]*"', path.read_text(encoding="utf-8")) for path in reports}
    assert not {name: places for name, places in found.items() if places}
