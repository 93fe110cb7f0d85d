"""Where answers are looked for: what a prompt asks for is read for every training set, style and protocol."""

import pytest

from aapo.errors import InputError
from aapo.evaluation import load_protocol
from aapo.evaluation.protocol import shipped_protocols
from aapo.grading import REWARDS, accuracy, extract_answer, grade, reward_function, with_convention
from aapo.recipe import load_recipe, resolve, shipped_recipes
from aapo.tasks import named_datasets, prompt_styles, shipped_benchmarks

# Answers in the form that each style's prompt asks for; a style that asks for none leaves it to the model.
BOXED = ("So it is $\\boxed{42}$.", "So it is $\\boxed{41}$.")
SAID = ("Half of 84.\nThe answer is 42.", "Half of 82.\nThe answer is 41.")
FORMS = {
    "none": BOXED,
    "r1-distill": tuple(f"<think>7</think><answer>{text}</answer>" for text in BOXED),
    "open-r1-think": tuple(f"<think>7</think>\n{text}" for text in SAID),
    "qwen-boxed": BOXED,
    "abel": SAID,
}
# A training set whose questions bring their own instruction asks for this instead.
ASKED = {"dapo-math": ("Half of 84.\n\nAnswer: 42", "Half of 82.\n\nAnswer: $41$")}
PROTOCOLS = {
    **dict.fromkeys(
        ("aapo", "paper"),
        tuple(
            f"Therefore, the final answer is: ${text}. I hope it is correct"
            for text in (r"\boxed{42}$", r"\boxed{41}$")
        ),
    ),
    **dict.fromkeys(("qwen-boxed", "qwen25-math-cot"), BOXED),
    "abel": SAID,
}
CHOICES = ("It is hot.\nAnswer: C", "It is hot.\nAnswer: Option (B)")


def recipe(**fields):
    return resolve("mine", {"model_name_or_path": "model", "num_eval_prompts": 0, **fields})


@pytest.mark.parametrize("name", named_datasets())
@pytest.mark.parametrize("style", prompt_styles())
@pytest.mark.parametrize("function", ["accuracy", "cosine"])
def test_the_form_that_a_training_prompt_asks_for_is_paid(name, style, function):
    right, wrong = ASKED.get(name, FORMS[style])
    (graded,) = recipe(dataset_name=name, prompt_style=style, reward_funcs=[function]).reward_funcs
    paid = graded(completions=[right, wrong, "42"], answer=["42"] * 3, completion_ids=[[0]] * 3)
    assert paid[0] > 0.9 and paid[1] <= 0 and paid[2] <= 0, (name, style, paid)


@pytest.mark.parametrize("protocol", shipped_protocols())
@pytest.mark.parametrize("name", shipped_benchmarks())
def test_the_form_that_a_protocol_asks_for_is_paid(protocol, name):
    benchmark, protocol = shipped_benchmarks()[name], load_protocol(protocol)
    names, kwargs = benchmark.rewards
    parameters = with_convention(names, kwargs, protocol.answer_convention)
    graded = reward_function("accuracy", (parameters or {}).get("accuracy"))
    if benchmark.choice_columns:
        assert graded(completions=list(CHOICES), answer=["C"] * 2) == [1.0, 0.0]
    else:
        right, wrong = PROTOCOLS[protocol.name]
        assert graded(completions=[right, wrong], answer=["42"] * 2) == [1.0, 0.0]


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_grade_by_the_convention_of_their_prompts(name):
    made = load_recipe(name)
    expected = "final_answer" if made.run.prompt_style in ("abel", "open-r1-think") else None
    for graded in ("accuracy", "cosine"):
        if graded in made.run.reward_funcs:
            assert ((made.run.reward_kwargs or {}).get(graded) or {}).get("convention") == expected


def test_what_a_recipe_says_of_the_convention_wins():
    boxed = {"accuracy": {"convention": None}}
    assert recipe(dataset_name="dapo-math", reward_kwargs=boxed).run.reward_kwargs == boxed
    upstream = {"accuracy": {"grader": "open_r1"}}
    assert recipe(dataset_name="dapo-math", reward_kwargs=upstream).run.reward_kwargs == upstream
    both = recipe(dataset_name="gsm8k", answer_convention="hashes", reward_funcs=["accuracy", "format"])
    assert both.run.reward_kwargs == {"accuracy": {"convention": "hashes"}}
    assert recipe(dataset_name="gsm8k").run.reward_kwargs is None
    with pytest.raises(InputError, match="convention is 'hash'"):
        recipe(dataset_name="gsm8k", answer_convention="hash")


def test_a_thought_that_never_ends_answers_nothing_unless_asked_for():
    cut_off = r"<think>Perhaps \boxed{42}, but let me"
    assert grade("42", cut_off) == ("no_answer", None, "extraction")
    assert grade("42", cut_off, unfinished_thoughts=True).outcome == "correct"
    assert accuracy([cut_off], answer=["42"]) == [0.0]
    assert accuracy([cut_off], answer=["42"], unfinished_thoughts=True) == [1.0]
    assert extract_answer(r"\boxed{41} <think>\boxed{42}") == "41"
    with pytest.raises(InputError, match="unfinished_thoughts has no effect, because grader is open_r1"):
        grade("42", cut_off, unfinished_thoughts=True, grader="open_r1")


def test_generated_problems_are_read_where_their_prompts_ask_for_the_answer():
    fields = {"dataset_name": "reasoning_gym:chain_sum", "num_train_prompts": 4, "reward_funcs": ["reasoning_gym"]}
    (asked,) = recipe(**fields, prompt_style="abel").reward_funcs
    entry = '{"question": "q", "answer": "42", "metadata": {}}'
    call = {"completions": ["So the answer is 42."], "task": ["chain_sum"], "entry": [entry]}
    assert asked(**call) == [1.0]
    (boxed,) = recipe(**fields, prompt_style="qwen-boxed").reward_funcs
    assert boxed(**call) == [0.0]
    with pytest.raises(InputError, match="convention is 'hash'"):
        reward_function("reasoning_gym", {"convention": "hash"})


def test_a_generated_problem_is_not_answered_in_a_thought_that_the_prompt_opened():
    entry = '{"question": "q", "answer": "42", "metadata": {}}'
    call = {"task": ["chain_sum"], "entry": [entry], "prompt_opening": ["<think>\n"]}
    assert REWARDS["reasoning_gym"](completions=["Is it \\boxed{42}? I am not"], **call) == [0.0]
    assert REWARDS["reasoning_gym"](completions=["Hm.</think> \\boxed{42}"], **call) == [1.0]
