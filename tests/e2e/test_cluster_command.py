"""`aapo cluster` as its user runs it, without verl: the dry run, what is refused, what becomes of the process."""

import shlex
import sys
import time

import pytest

import scripted
from aapo.backends.verl.launch import external_modules, last_error, run_verl
from aapo.cli.app import run
from aapo.errors import AapoError


@pytest.fixture
def recipe(tiny_folder, tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    scripted.write_recipe(tmp_path, tiny_folder, scripted.mixed)
    return "scripted.yaml"


def printed(capsys, *arguments):
    capsys.readouterr()
    code = run(["cluster", *arguments])
    streams = capsys.readouterr()
    return code, streams.out.splitlines(), streams.err.strip().splitlines()


def test_a_dry_run_prints_what_each_field_becomes_and_the_command(recipe, capsys, tmp_path):
    cluster = ("--cluster.num_nodes", "2", "--cluster.gpus_per_node", "1", "--cluster.python", "/opt/verl/bin/python")
    flags = (*cluster, "--output_dir", "out", "--learning_rate", "0.1", "--lr_scheduler_type", "constant")
    code, lines, errors = printed(capsys, recipe, "--dry-run", *flags)
    assert code == 0, errors
    table = lines[lines.index("what each field becomes in verl:") : lines.index("command:")]
    assert any(line.split() == ["learning_rate", "0.1", "actor_rollout_ref.actor.optim.lr=0.1"] for line in table)
    assert any(line.split() == ["cluster.num_nodes", "2", "trainer.nnodes=2"] for line in table)
    environment, *line = shlex.split(lines[-1])
    assert environment == "VERL_USE_EXTERNAL_MODULES=aapo.backends.verl.plugin"
    assert line[:3] == ["/opt/verl/bin/python", "-m", "verl.trainer.main_ppo"]
    # two processes with 8 completions each, 4 a prompt
    assert "data.train_batch_size=4" in line and f"+aapo.run={tmp_path}/out" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min_p", "0.1"), "aapo: min_p is 0.1 and has no equivalent in verl; remove it"),
        (("--cluster.nodes", "2"), "aapo: unknown field 'cluster.nodes' (did you mean num_nodes?)"),
        (("--cluster.python", "nowhere"), "aapo: cluster.python is nowhere, which cannot be run: No such file"),
        (("--cluster.python", "/bin/false"), "aapo: cluster.python is /bin/false, which lacks Python; pip install"),
    ],
)
def test_what_cannot_be_run_is_one_line_before_anything_is_written(recipe, capsys, tmp_path, flags, message):
    code, _, errors = printed(capsys, recipe, "--output_dir", "out", "--lr_scheduler_type", "constant", *flags)
    assert code == 2 and len(errors) == 1 and errors[0].startswith(message)
    assert not (tmp_path / "out").exists()


def test_launched_twice_is_refused(recipe, capsys, monkeypatch):
    monkeypatch.setattr("aapo.backends.verl.run.num_launched", lambda: 2)
    code, _, errors = printed(capsys, recipe, "--output_dir", "out", "--lr_scheduler_type", "constant")
    assert code == 2 and errors == [
        "aapo: backend is verl, which starts its own processes; run `aapo cluster` once, without a launcher"
    ]


def test_the_output_is_kept_and_its_error_told(tmp_path):
    log, told = tmp_path / "verl.log", []
    script = "import time; print('step 1'); time.sleep(1.5); raise ValueError('no GPU here')"
    with pytest.raises(AapoError, match=r"verl ended with exit code 1: ValueError: no GPU here; all that it printed"):
        run_verl([sys.executable, "-c", script], log, lambda: told.append(log.read_text()))
    assert "step 1" in log.read_text() and told
    assert last_error(log) == "ValueError: no GPU here"


def test_ctrl_c_ends_verl_and_is_no_error(tmp_path):
    log = tmp_path / "verl.log"

    def interrupt():
        while "begun" not in log.read_text():
            time.sleep(0.05)
        raise KeyboardInterrupt

    # As a program of a terminal; one that was begun in the background ignores Ctrl-C.
    heeds = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    waits = heeds + "try:\n print('begun')\n time.sleep(60)\nexcept KeyboardInterrupt:\n print('left')"
    assert run_verl([sys.executable, "-u", "-c", waits], log, interrupt)
    assert log.read_text().split() == ["begun", "left"]


def test_the_plugin_comes_after_what_the_environment_names(monkeypatch):
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "mine,aapo.backends.verl.plugin")
    assert external_modules() == "mine,aapo.backends.verl.plugin"
