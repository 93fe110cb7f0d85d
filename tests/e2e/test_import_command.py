"""`aapo import-config` at the command line."""

from aapo.cli.app import run as aapo

TEXT = "dataset_name: knoveleng/open-rs\nreward_funcs: [accuracy]\nmax_steps: 3\nlog_level: info\n"


def test_a_recipe_is_written_once(tmp_path, capsys):
    source, output = tmp_path / "grpo.yaml", tmp_path / "recipe.yaml"
    source.write_text(TEXT)
    command = ["import-config", str(source), "--output", str(output), "--model_name_or_path", "model"]
    assert aapo(command) == 0
    out = capsys.readouterr().out
    assert "open-rs settings" in out and "dataset_name" in out and "explained" in out
    assert "model_name_or_path: model" in output.read_text()
    assert aapo(command) == 0, "the same recipe again"
    assert aapo([*command, "--max_steps", "4"]) == 2
    assert "exists and is another recipe; choose another --output" in capsys.readouterr().err
    assert "max_steps: 3" in output.read_text()


def test_what_is_refused_writes_nothing(tmp_path, capsys):
    source, output = tmp_path / "grpo.yaml", tmp_path / "recipe.yaml"
    source.write_text(TEXT + "chat_template: x\n")
    assert aapo(["import-config", str(source), "--output", str(output), "--model_name_or_path", "m"]) == 2
    assert capsys.readouterr().err.startswith("aapo: chat_template: a recipe uses the model's own")
    assert not output.exists()
    assert aapo(["import-config", str(source), "--output", str(output), "--upstream", "bugs"]) == 2
    assert "--upstream is 'bugs'; it must be corrected or exact" in capsys.readouterr().err
