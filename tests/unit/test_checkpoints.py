"""Checkpoints: a mark says what was saved, damage is told from it, and the last good one is never removed."""

import pytest

from aapo.checkpoints import WHOLE, damage, mark_whole, marked, newest_whole, rotate
from aapo.errors import InputError

FILES = {"model.safetensors": b"w" * 100_000, "optimizer.pt": b"o" * 10, "sub/rng_state_1.pth": b"r"}


def save(folder, step, *, whole=True):
    checkpoint = folder / f"checkpoint-{step}"
    for name, content in FILES.items():
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_bytes(content)
    if whole:
        mark_whole(checkpoint)
    return checkpoint


def shorten(file):
    file.write_bytes(file.read_bytes()[:-1])


def change(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("harm", "said"), [(lambda file: file.unlink(), "missing"), (shorten, "damaged"), (change, "damaged")]
)
def test_each_harm_to_each_file_of_a_checkpoint_is_named(tmp_path, name, harm, said):
    checkpoint = save(tmp_path, 3)
    assert damage(checkpoint) is None
    harm(checkpoint / name)
    assert damage(checkpoint) == f"{name} is {said}"


def test_a_file_over_16_mib_is_hashed_at_both_ends_and_between(tmp_path, monkeypatch):
    monkeypatch.setattr("aapo.checkpoints.NUM_BLOCKS", 4)
    monkeypatch.setattr("aapo.checkpoints.BLOCK_BYTES", 10)
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    file = checkpoint / "model.safetensors"
    file.write_bytes(bytes(1000))
    mark_whole(checkpoint)
    for place, seen in ((0, True), (255, True), (999, True), (100, False)):
        content = bytearray(1000)
        content[place] = 1
        file.write_bytes(content)
        assert (damage(checkpoint) is not None) == seen


@pytest.mark.parametrize("mark", [b"", b"[]", b"{}", b"\xff"])
def test_a_mark_that_lists_no_files_is_not_believed(tmp_path, mark):
    checkpoint = save(tmp_path, 1)
    (checkpoint / WHOLE).write_bytes(mark)
    assert "its mark `whole` is damaged, or of an earlier version" in str(damage(checkpoint))


def test_the_newest_whole_checkpoint_is_taken_and_what_is_passed_over_is_said(tmp_path):
    good, damaged, cut = save(tmp_path, 9), save(tmp_path, 10), save(tmp_path, 11, whole=False)
    (damaged / "optimizer.pt").unlink()
    said = []
    assert newest_whole(tmp_path, said.append) == good
    assert said == [
        f"{cut} is passed over: its save was cut short",
        f"{damaged} is passed over: optimizer.pt is missing",
    ]
    assert damaged.exists() and cut.exists()


def test_where_all_that_were_saved_are_damaged_one_line_says_so(tmp_path):
    (save(tmp_path, 2) / "optimizer.pt").unlink()
    with pytest.raises(
        InputError, match=r"no checkpoint is whole \(.*checkpoint-2: optimizer.pt is missing\); put the"
    ):
        newest_whole(tmp_path)


def test_where_none_was_saved_to_its_end_training_begins_anew(tmp_path):
    assert newest_whole(tmp_path / "none") is None
    save(tmp_path, 1, whole=False)
    assert newest_whole(tmp_path) is None


def test_rotation_keeps_the_newest_the_best_and_the_number_asked_for(tmp_path):
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    save(tmp_path, 9, whole=False)

    def left():
        return [int(path.name[11:]) for path in marked(tmp_path)]

    rotate(tmp_path, 0)
    assert left() == [1, 2, 3, 10] and not (tmp_path / "checkpoint-9").exists()
    rotate(tmp_path, 3, [str(tmp_path / "checkpoint-1")])
    assert left() == [1, 3, 10]
    rotate(tmp_path, 1, [str(tmp_path / "checkpoint-1")])
    assert left() == [1, 10]
    rotate(tmp_path, 1, [None])
    assert left() == [10]


def test_until_a_checkpoint_is_marked_the_one_before_it_stays(tmp_path, monkeypatch):
    """As the trainer saves: with a limit of one, killed between the save and the mark."""
    from types import SimpleNamespace

    from aapo.backends.trl.recorder import Recorder
    from aapo.runs import RunDirectory
    from aapo.stopping import Stop

    recorder = Recorder(RunDirectory(tmp_path), lambda done, note: None, Stop(print), save_total_limit=1)
    args = SimpleNamespace(output_dir=str(tmp_path))

    def saved(step):
        save(tmp_path, step, whole=False)
        state = SimpleNamespace(global_step=step, is_world_process_zero=True, best_model_checkpoint=None)
        recorder.on_save(args, state, None)

    saved(1)
    with monkeypatch.context() as patch:
        patch.setattr("aapo.backends.trl.recorder.mark_whole", lambda checkpoint: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            saved(2)
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-1"
    saved(3)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
