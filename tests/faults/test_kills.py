"""Kill -9 at 20 seeded moments of each long command; then what the documentation says, and nothing is lost."""

import shutil

import pytest

from faulty import evaluated, moments, outcome, rows

pytestmark = pytest.mark.faults
MOMENTS = 20


def leftovers(folder):
    return [path for path in folder.rglob(".*.tmp") if "cache" not in path.parts]


def assert_the_same_after_kills(place, command, killing, found):
    """The command, killed at each moment and run again, each time with a cache of its own, finds what `whole` has."""
    killed, expected = 0, found(place.folder / "whole")
    for number, moment in enumerate(killing):
        here, out = place.apart(f"cache{number}"), place.folder / f"out{number}"
        killed += here.kill(moment, *command, out.name)
        here.run(*command, out.name)
        assert found(out) == expected, moment
        assert not leftovers(out)
    assert killed >= len(killing) // 2


def test_a_bank_that_is_killed_is_completed_by_the_same_command(make_workplace):
    place = make_workplace("bank")
    build = ("bank", "build", "mine.yaml", "--all", "--output")
    whole = place.run(*build, "whole")
    killed = 0
    for number, moment in enumerate(moments(1, MOMENTS, whole.seconds, whole.changes)):
        killed += place.kill(moment, *build, f"bank{number}")
        place.run(*build, f"bank{number}")
        assert rows(place.folder / f"bank{number}") == rows(place.folder / "whole"), moment
        assert not leftovers(place.folder / f"bank{number}")
    assert killed >= MOMENTS // 2


def test_a_bank_that_is_killed_as_it_grows_is_completed_by_the_same_command(make_workplace):
    place = make_workplace("growth")
    build = ("bank", "build", "mine.yaml", "--all", "--output")
    more = ("--num_reference_samples", 4)
    place.run(*build, "first")
    shutil.copytree(place.folder / "first", place.folder / "whole")
    whole = place.run(*build, "whole", *more)
    killed = 0
    for number, moment in enumerate(moments(2, MOMENTS, whole.seconds, whole.changes)):
        shutil.copytree(place.folder / "first", place.folder / f"bank{number}")
        killed += place.kill(moment, *build, f"bank{number}", *more)
        place.run(*build, f"bank{number}", *more)
        assert rows(place.folder / f"bank{number}") == rows(place.folder / "whole"), moment
    assert killed >= MOMENTS // 2


def test_a_training_that_is_killed_goes_on_to_the_same_metrics_weights_and_results(make_workplace):
    place = make_workplace("train")
    train = ("train", "mine.yaml", "--output_dir")
    whole = place.run(*train, "whole")
    expected = outcome(place.folder / "whole")
    killed = 0
    for number, moment in enumerate(moments(3, MOMENTS, whole.seconds, whole.changes)):
        run = place.folder / f"run{number}"
        here = place.apart(f"cache{number}")
        killed += here.kill(moment, *train, run.name)
        here.run(*train, run.name, *(["--resume"] if (run / "recipe.yaml").exists() else []))
        assert outcome(run) == expected, moment
        assert not leftovers(run)
    assert killed >= MOMENTS // 2


def test_an_evaluation_that_is_killed_goes_on_to_the_same_results(make_workplace):
    place = make_workplace("eval", eval_strategy="no", eval_steps=None)
    place.run("train", "mine.yaml", "--output_dir", "run")
    evaluate = ("eval", "run", "--tasks", "held_out", "--num-samples", 4, "--batch-size", 4, "--output")
    whole = place.apart("whole-cache").run(*evaluate, "whole")
    assert_the_same_after_kills(place, evaluate, moments(4, MOMENTS, whole.seconds, whole.changes), evaluated)


def test_a_comparison_that_is_killed_goes_on_to_the_same_summary(make_workplace):
    place = make_workplace("compare", eval_strategy=None, eval_steps=None, max_steps=4)
    compare = ("compare", "mine.yaml", "--algorithms", "aapo,grpo", "--seeds", "0", "--curve-points", 2, "--output")
    whole = place.run(*compare, "whole")
    # Its own changes of files, and those of a run, which goes on counting where it was started.
    assert_the_same_after_kills(place, compare, moments(5, MOMENTS, whole.seconds, 3 * whole.changes), runs_of)


def runs_of(comparison):
    return {name: outcome(comparison / "runs" / name / "seed-0") for name in ("aapo", "grpo")}


@pytest.mark.parametrize("victims", [(0,), (1,), (0, 1)], ids=["the first", "the second", "both"])
def test_two_processes_that_are_killed_go_on_to_what_two_reach(make_workplace, victims):
    place = make_workplace("two", per_device_train_batch_size=4)
    train = ("train", "mine.yaml", "--output_dir")
    began = place.start_ranks(2, *train, "whole")
    assert [command.wait() for command in began] == [0, 0], began[0].output() + began[1].output()
    whole, expected = began[0].seconds, outcome(place.folder / "whole")
    for number, moment in enumerate(moments(6 + sum(victims), 6, whole, 1)[:3]):
        run, here = place.folder / f"run{number}", place.apart(f"cache{number}")
        ranks = here.start_ranks(2, *train, run.name)
        ranks[0].process.join(moment.seconds)
        for victim in victims:
            ranks[victim].kill()
        codes = [command.wait(60) for command in ranks]  # the other one ends within a minute
        if codes == [0, 0]:
            continue
        assert all(code != 0 for code in codes), codes
        ranks = here.start_ranks(2, *train, run.name, *(["--resume"] if (run / "recipe.yaml").exists() else []))
        assert [command.wait() for command in ranks] == [0, 0], ranks[0].output()
        assert outcome(run) == expected, moment
