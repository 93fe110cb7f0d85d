"""Models as one object with identity and loader; engines by name, one model at a time."""

import json
import weakref
from types import SimpleNamespace

import pytest
from transformers.integrations import deepspeed

from aapo import ModelSpec, Protocol, Task, evaluate, open_engine
from aapo.engines.loading import whole_weights
from aapo.errors import InputError
from aapo.grading import BY_VERDICT, accuracy
from aapo.sampling import SamplingSettings

OWN = """
from aapo.records import Completion

LOG = []


class Echo:
    def __init__(self, name, tokenizer, size):
        self.name, self.tokenizer, self.batch_size = name, tokenizer, size
        LOG.append(("open", name))

    def generate(self, prompt_ids, seeds, on_batch=lambda done: None):
        LOG.append(("generate", self.name, len(prompt_ids)))
        return [Completion(r"\\boxed{2}", [1, 2], "stop") for _ in seeds]

    def close(self):
        LOG.append(("close", self.name))


def make(spec, tokenizer, settings, batch_size, **options):
    LOG.append(("options", options))
    return Echo(spec.name, tokenizer, batch_size)
"""


def test_a_specs_identity_says_how_its_weights_are_read(tiny_folder):
    plain = ModelSpec(str(tiny_folder), dtype="bfloat16")
    assert plain.name == tiny_folder.name and plain.precision == "bfloat16"
    quantized = ModelSpec(str(tiny_folder), dtype="bfloat16", quantization={"load_in_4bit": True})
    assert quantized.precision == "4bit" and quantized.identity() != plain.identity()
    assert plain.identity("vllm") == {**plain.identity(), "engine": "vllm"}
    assert plain.load().dtype.__str__() == "torch.bfloat16"


def test_weights_are_loaded_whole_although_a_trainer_has_asked_to_split_them(tiny_folder):
    class Config:
        """As a trainer under ZeRO-3 leaves it."""

        def is_zero3(self):
            return True

    config = Config()
    deepspeed._hf_deepspeed_config_weak_ref = weakref.ref(config)
    try:
        with whole_weights():
            assert not deepspeed.is_deepspeed_zero3_enabled()
        assert deepspeed.is_deepspeed_zero3_enabled()
        model = ModelSpec(str(tiny_folder)).load()  # split, it would need DeepSpeed, which is not installed
        assert deepspeed.is_deepspeed_zero3_enabled() and all(p.numel() for p in model.parameters())
    finally:
        deepspeed.unset_hf_deepspeed_config()


def test_an_engine_loads_its_model_when_it_is_asked_and_frees_it_after(tiny_folder):
    with open_engine(ModelSpec(str(tiny_folder)), SamplingSettings(max_completion_length=2)) as engine:
        assert engine._engine is None and engine.batch_size == 256
        engine.generate([[5, 6]], [1])
        model = weakref.ref(engine._engine.model)  # type: ignore[union-attr]
        assert model() is not None
    assert engine._engine is None and model() is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vlm", r"engine is 'vlm' \(did you mean vllm\?\); it must be transformers or vllm"),
        ("x.py:make", "cannot load"),
    ],
)
def test_an_unknown_engine_is_refused_before_a_model_is_loaded(tiny_folder, name, message):
    with pytest.raises(InputError, match=message):
        open_engine(ModelSpec(str(tiny_folder)), SamplingSettings(), name)


def test_models_are_evaluated_one_after_the_other_by_an_engine_of_ones_own(tiny_folder, tmp_path, cache, addition):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2"}) + "\n")
    engine = f"{tmp_path / 'own.py'}:make"
    specs = [ModelSpec(str(tiny_folder), name=name) for name in ("one", "two")]
    tasks = [Task("sums", addition, [accuracy], BY_VERDICT, 3), str(tmp_path / "rows.jsonl")]
    protocol = Protocol(num_samples=2)
    found = evaluate(specs, tasks, protocol, engine=engine, engine_options={"speed": 3})
    assert [(item.model, item.task, item.num_samples) for item in found] == [
        ("one", "sums", 3), ("one", "rows", 2), ("two", "sums", 3), ("two", "rows", 2),
    ]  # fmt: skip
    assert [item.estimate().estimate for item in found] == [1 / 8, 1.0, 1 / 8, 1.0]
    from aapo.named import module_at

    log = module_at(str(tmp_path / "own.py")).LOG
    assert log[0] == ("options", {"speed": 3})
    # The two models are one by their weights, so what the first has drawn is the second's, and it is not even opened.
    assert log[1:] == [("open", "one"), ("generate", "one", 24), ("generate", "one", 2), ("close", "one")]
    with pytest.raises(InputError, match="two models are called one; rename a folder"):
        evaluate([specs[0], specs[0]], tasks, protocol, engine=engine)


def test_a_run_is_evaluated_as_it_loads_its_models(tiny_folder):
    from aapo.cli.evaluation import _as_loaded
    from aapo.recipe import resolve
    from aapo.training.models import model_spec

    recipe = resolve(
        "qlora",
        {
            "model_name_or_path": str(tiny_folder), "dataset_name": "rows.jsonl", "num_eval_prompts": 0, "bf16": False,
            "use_peft": True, "load_in_4bit": True, "dtype": "bfloat16",
        },
    )  # fmt: skip
    final, plain = ModelSpec("run/model", name="run"), SimpleNamespace(dtype=None, trust_remote_code=False)
    loaded = _as_loaded(final, recipe, plain)  # type: ignore[arg-type]
    assert loaded == model_spec(recipe, "run/model", name="run") and loaded.precision == "4bit"
    asked = _as_loaded(final, recipe, SimpleNamespace(dtype="float32", trust_remote_code=False))  # type: ignore[arg-type]
    assert asked.precision == "float32" and asked.quantization is None
    assert _as_loaded(final, None, plain).precision == "auto"  # type: ignore[arg-type]
