from aapo.runs import RunDirectory


def test_a_torn_last_line_of_metrics_costs_itself_only(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.metrics() == []
    for step in (1, 2):
        run.append_metrics({"step": step, "reward": step / 2})
    whole = run.metrics_file.read_bytes()
    for cut in range(1, len(whole) - whole.index(b"\n") - 1):  # every place in the second line
        run.metrics_file.write_bytes(whole[:-cut])
        assert run.metrics() == [{"step": 1, "reward": 0.5}]
        run.append_metrics({"step": 2, "reward": 4.0})
        assert run.metrics() == [{"step": 1, "reward": 0.5}, {"step": 2, "reward": 4.0}]


def test_a_line_torn_from_an_empty_file_is_replaced(tmp_path):
    run = RunDirectory(tmp_path)
    run.metrics_file.write_bytes(b'{"step": 1, "rew')
    assert run.metrics() == []
    run.append_metrics({"step": 1})
    assert run.metrics() == [{"step": 1}]
