import json

import pytest
from datasets import Dataset, DatasetDict

from aapo.engines import load_tokenizer
from aapo.errors import InputError
from aapo.tasks import DataConfig, encode_prompt, held_out, limit_prompts, load_prompts, prompt_key, render_prompt

SUMS = {"min_terms": 2, "max_terms": 2, "operators": ["+"], "allow_parentheses": False}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def generated(**changes):
    settings = {"dataset_name": "reasoning_gym:basic_arithmetic", "dataset_settings": SUMS, "num_train_prompts": 40}
    return DataConfig(**{**settings, **changes})


def test_generated_sides_are_disjoint_for_all_seeds():
    train = {row["prompt"][-1]["content"] for row in load_prompts(generated(dataset_seed=0), "train")}
    for seed in (0, 1, 7):
        test = {
            row["prompt"][-1]["content"]
            for row in load_prompts(generated(dataset_seed=seed, num_eval_prompts=60), "test")
        }
        assert len(test) == 60
        assert not train & test
        assert all(held_out(question) for question in test)
    assert not any(held_out(question) for question in train)


def test_a_mix_of_generated_tasks_has_all_of_them_and_an_unknown_part_is_refused():
    parts = [{"name": "gcd", "config": {"max_numbers": 2}}, {"name": "count_bits", "weight": 2}]
    mixed = {"dataset_name": "reasoning_gym:composite", "dataset_settings": {"datasets": parts}}
    rows = load_prompts(generated(**mixed), "train")
    sources = [json.loads(row["entry"])["metadata"]["source_dataset"] for row in rows]
    assert {"gcd", "count_bits"} == {*sources} and len(sources) == 40
    parts[0]["name"] = "gdc"
    with pytest.raises(InputError, match="dataset_settings do not fit composite: .*gdc"):
        load_prompts(generated(**mixed), "train")
    parts[0] = {"config": {}}
    with pytest.raises(InputError, match="dataset_settings do not fit composite: .*name"):
        load_prompts(generated(**mixed), "train")


def test_generated_prompts_are_distinct_and_answers_are_sums():
    rows = load_prompts(generated(num_train_prompts=200), "train")
    questions = [row["prompt"][0]["content"] for row in rows]
    assert len(set(questions)) == 200
    for question, answer in zip(questions, rows["answer"], strict=True):
        left, right = question.removeprefix("Calculate ").rstrip(".").split(" + ")
        assert int(left) + int(right) == int(answer)


def test_a_task_that_runs_out_of_problems_says_how_many_it_has():
    config = generated(dataset_settings={**SUMS, "min_digits": 1, "max_digits": 1}, num_train_prompts=5000)
    with pytest.raises(InputError, match="has only about .* distinct problems"):
        load_prompts(config, "train")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_local_files_become_prompts_with_the_usual_columns(tmp_path, suffix):
    rows = [{"problem": f"{n}+1?", "solution": str(n + 1), "level": n} for n in range(40)]
    path = tmp_path / f"data.{suffix}"
    {"jsonl": Dataset.to_json, "parquet": Dataset.to_parquet, "csv": Dataset.to_csv}[suffix](
        Dataset.from_list(rows), str(path)
    )
    config = DataConfig(dataset_name=str(path), system_prompt="Think.", prompt_template="Q: {question}")
    train, test = load_prompts(config, "train"), load_prompts(config, "test")
    assert len(train) + len(test) == 40 and len(test) > 0
    row = next(row for row in train)
    n = row["level"]
    assert row["prompt"] == [{"role": "system", "content": "Think."}, {"role": "user", "content": f"Q: {n}+1?"}]
    assert row["answer"] == str(n + 1)


def test_a_folder_with_splits_keeps_its_own_test_side(tmp_path):
    make = lambda start: Dataset.from_list([{"question": f"q{i}", "answer": str(i)} for i in range(start, start + 5)])  # noqa: E731
    DatasetDict({"train": make(0), "test": make(100)})
    (tmp_path / "hub").mkdir()
    make(0).to_parquet(tmp_path / "hub" / "train.parquet")
    make(100).to_parquet(tmp_path / "hub" / "test.parquet")
    config = DataConfig(dataset_name=str(tmp_path / "hub"), conversational=False)
    assert list(load_prompts(config, "train")["answer"]) == ["0", "1", "2", "3", "4"]
    assert list(load_prompts(config, "test")["prompt"]) == [f"q{i}" for i in range(100, 105)]


def test_missing_column_names_those_present(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", [{"text": "a", "answer": "1"}])
    with pytest.raises(
        InputError, match=r"no column any of prompt, problem, question; it has text, answer; set prompt_"
    ):
        load_prompts(DataConfig(dataset_name=path, num_eval_prompts=0), "train")
    with pytest.raises(InputError, match=r"no column 'gold'; it has text, answer; set answer_column"):
        load_prompts(
            DataConfig(dataset_name=path, num_eval_prompts=0, prompt_column="text", answer_column="gold"), "train"
        )


def test_empty_data_and_missing_golds_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="is empty; a data set needs at least one row"):
        load_prompts(DataConfig(dataset_name=str(tmp_path / "empty.jsonl"), num_eval_prompts=0), "train")
    rows = [{"question": "a", "answer": "1"}, {"question": "b", "answer": " "}, {"question": "c", "answer": None}]
    path = write_rows(tmp_path / "gold.jsonl", rows)
    with pytest.raises(InputError, match=r"2 of 3 rows have no gold answer in column 'answer' \(rows 1, 2\)"):
        load_prompts(DataConfig(dataset_name=path, num_eval_prompts=0), "train")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "dataset_name is missing"),
        ({"dataset_name": "x.jsonl", "prompt_template": "Q"}, r"must contain \{question\}"),
        ({"dataset_name": "x.jsonl", "dataset_settings": {"a": 1}}, "dataset_settings has no effect"),
        ({"dataset_name": "reasoning_gym:chain_sum"}, "num_train_prompts is missing"),
        ({"dataset_name": "x.jsonl", "drop_long_prompts": True}, "drop_long_prompts has no effect"),
    ],
)
def test_bad_data_settings(fields, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**fields)


def test_unknown_tasks_and_settings_name_the_nearest():
    with pytest.raises(InputError, match=r"no task 'chain_sums' \(did you mean chain_sum\?\)"):
        load_prompts(generated(dataset_name="reasoning_gym:chain_sums", dataset_settings={}), "train")
    with pytest.raises(
        InputError, match=r"dataset_settings do not fit basic_arithmetic: .*; its settings are min_terms"
    ):
        load_prompts(generated(dataset_settings={"digits": 3}), "train")


def test_rendering_uses_the_chat_template_and_continues_a_prefill(tiny_folder):
    tokenizer = load_tokenizer(str(tiny_folder))
    user = {"role": "user", "content": "Hi"}
    assert render_prompt([user], tokenizer) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    prefilled = render_prompt([user, {"role": "assistant", "content": "<think>"}], tokenizer)
    assert prefilled == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>"
    assert render_prompt("plain", tokenizer) == "plain"
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="has no chat template"):
        render_prompt([user], tokenizer)


def test_plain_text_gets_the_tokenizers_own_first_token_and_chat_text_does_not(tiny_folder):
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(str(tiny_folder))
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    plain = encode_prompt("Hi", tokenizer)
    assert plain[0] == start and tokenizer.decode(plain[1:]) == "Hi"
    chat = encode_prompt([{"role": "user", "content": "Hi"}], tokenizer)
    assert chat[0] == start and chat[1] != start


def test_keys_depend_on_prompt_and_gold():
    assert prompt_key("a", "1") == prompt_key("a", "1")
    assert len({prompt_key("a", "1"), prompt_key("a", "2"), prompt_key("b", "1"), prompt_key("a1", "")}) == 4


def test_long_prompts_are_counted_and_named_or_dropped(tiny_folder, addition):
    tokenizer = load_tokenizer(str(tiny_folder))
    lengths = [len(tokenizer(render_prompt(row["prompt"], tokenizer))["input_ids"]) for row in addition]
    limit = max(lengths)
    lengths.append(3 * limit)
    with pytest.raises(
        InputError, match=rf"1 of 9 prompts are longer than max_prompt_length {limit} \(first: row 8 with"
    ):
        limit_prompts(lengths, limit, drop=False)
    assert limit_prompts(lengths, limit, drop=True) == list(range(8))
    assert limit_prompts(lengths, None, drop=False) == list(range(9))
    with pytest.raises(InputError, match="9 of 9 prompts"):
        limit_prompts(lengths, 1, drop=True)


def test_a_template_that_prints_the_date_prints_the_same_every_day(tiny_folder, monkeypatch):
    tokenizer = load_tokenizer(str(tiny_folder))
    # As Llama 3 Instruct has it.
    tokenizer.chat_template = (
        "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
        "Today Date: {{ date_string }} {{ messages[0]['content'] }}"
    )
    prompt = [{"role": "user", "content": "Hi"}]
    assert render_prompt(prompt, tokenizer) == "Today Date: 26 Jul 2024 Hi"
    assert render_prompt(prompt, tokenizer, date_string="1 Jan 2026") == "Today Date: 1 Jan 2026 Hi"


BIG = [str(2**64 + 10**6 * n) for n in range(12)]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_golds_in_local_files_stay_as_they_are_written(tmp_path, suffix):
    golds = [*BIG, "42", "1.50", "-7"]
    path = tmp_path / f"rows.{suffix}"
    objects = [f'{{"question": "q{n}", "answer": {gold}}}' for n, gold in enumerate(golds)]
    path.write_text(
        {
            "jsonl": "\n".join(objects),
            "json": "[" + ",".join(objects) + "]",
            "csv": "question,answer\n" + "".join(f"q{n},{gold}\n" for n, gold in enumerate(golds)),
        }[suffix]
    )
    assert load_prompts(DataConfig(dataset_name=str(path), num_eval_prompts=0), "train")["answer"] == golds


def test_a_date_as_gold_stays_text(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"question": "When?", "answer": "2024-01-02"}])
    assert load_prompts(DataConfig(dataset_name=path, num_eval_prompts=0), "train")["answer"] == ["2024-01-02"]


def test_golds_that_have_lost_their_digits_are_refused(tmp_path):
    Dataset.from_list([{"question": "a", "answer": 0.5}, {"question": "b", "answer": 2.0**64}]).to_parquet(
        str(tmp_path / "rows.parquet")
    )
    with pytest.raises(InputError, match=r"1 of 2 gold answers in column 'answer' are floating-point .* \(rows 1\)"):
        load_prompts(DataConfig(dataset_name=str(tmp_path / "rows.parquet"), num_eval_prompts=0), "train")


@pytest.mark.parametrize(
    "empty", [None, "", "  ", [], [{"role": "user", "content": None}], [{"role": "user", "content": " "}]]
)
def test_rows_without_a_question_are_refused_and_counted(tmp_path, empty):
    asked = "1+1?" if isinstance(empty, str | None) else [{"role": "user", "content": "1+1?"}]
    rows = [{"question": question, "answer": "2"} for question in (asked, empty, asked, empty)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(
        InputError, match=r"^2 of 4 rows have no question in column 'question' \(rows 1, 3\); fill them"
    ):
        load_prompts(DataConfig(dataset_name=path, num_eval_prompts=0), "train")


def test_messages_of_text_parts_become_text(tmp_path):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "1+1?"}]
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": [{"role": "user", "content": parts}], "answer": "2"}])
    config = DataConfig(dataset_name=path, num_eval_prompts=0, system_prompt="Think.")
    (row,) = load_prompts(config, "train")
    assert row["prompt"] == [{"role": "system", "content": "Think."}, {"role": "user", "content": "What is 1+1?"}]


def loaded(path, **fields):
    return load_prompts(DataConfig(dataset_name=str(path), num_eval_prompts=0, **fields), "train")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize(
    ("golds", "expected"),
    [
        ('{"gt": 18446744073709551617} {"gt": 18446744073709551618}', ["18446744073709551617", "18446744073709551618"]),
        ('{"gt": [18446744073709551617, 2.50]} {"gt": [1, 2]}', ["18446744073709551617, 2.50", "1, 2"]),
        ('{"gt": 2.50} {"gt": "x"}', ["2.50", "x"]),
        ('{"gt": 7} {"gt": 0.10}', ["7", "0.10"]),
    ],
)
def test_golds_in_nested_columns_and_lists_stay_as_they_are_written(tmp_path, name, golds, expected):
    inner = golds.replace("} {", "}\n{").split("\n")
    # A line separator in a question ends no line of the file; a number beyond 64 bits beside the gold is no matter.
    rows = [f'{{"question": "a\u2028b{i}", "n": 1e30, "m": {gold}}}' for i, gold in enumerate(inner)]
    text = "\n".join(rows) if name.endswith("l") else f"[{', '.join(rows)}]"
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(loaded(tmp_path / name, answer_column="m.gt")["answer"]) == expected


def test_a_number_beyond_64_bits_in_another_column_of_an_array_ends_nothing(tmp_path):
    (tmp_path / "rows.json").write_text('[{"question": "q", "answer": "1", "n": 18446744073709551617}]')
    assert loaded(tmp_path / "rows.json")["n"] == ["18446744073709551617"]


def test_questions_of_a_table_of_commas_are_text(tmp_path):
    (tmp_path / "rows.csv").write_text("problem,answer\n007,025\n")
    rows = loaded(tmp_path / "rows.csv", conversational=False)
    assert (list(rows["prompt"]), list(rows["answer"])) == (["007"], ["025"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "q", "answer": {"value": 5}},
            "1 of 1 rows have a gold answer in column 'answer' that is no text",
        ),
        ({"question": "q", "answer": [{"value": 5}]}, "have a gold answer in column 'answer' that is no text"),
        ({"question": "q", "answer": True}, "have a gold answer in column 'answer' that is no text"),
        ({"question": "q", "answer": ["1", " "]}, "rows have no gold answer in column 'answer'"),
        ({"question": "q", "answer": float("nan")}, "rows have no gold answer in column 'answer'"),
        (
            {"question": {"text": "q"}, "answer": "1"},
            "1 of 1 rows have a question in column 'question' that is no text",
        ),
        ({"question": ["q", "r"], "answer": "1"}, "have a question in column 'question' that is no text"),
        ({"question": 5, "answer": "1"}, "have a question in column 'question' that is no text"),
        ({"prompt": [{"content": "q"}], "answer": "1"}, "have a question in column 'prompt' that is no text"),
        ({"prompt": [{"role": "user"}], "answer": "1"}, "rows have no question in column 'prompt'"),
        ({"question": "q", "answer": "\ud83d"}, "surrogate"),
    ],
)
def test_a_question_or_gold_that_is_no_text_is_refused(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        loaded(write_rows(tmp_path / "rows.jsonl", [row]))
