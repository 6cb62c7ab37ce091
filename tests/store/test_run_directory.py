"""Runs are found by id, by its beginning, by path, or as the newest."""

from __future__ import annotations

import os

import pytest

from memdash import wire
from memdash.errors import RecordCorrupt, UsageError
from memdash.locations import runs_dir
from memdash.store.run_directory import RunRecord, create_run, find_run, list_runs, new_run_id


def make(run_id: str, parent=None):
    record = RunRecord(run_id=run_id, name="x", created_s=1.0, argv=["true"], cwd="/")
    directory = create_run(record, config_json=b"{}", config_toml="", parent=parent or runs_dir())
    os.utime(directory.path / "run.json", ns=(len(list_runs()) * 10**9,) * 2)
    return directory


def test_finding():
    make("alpha-1"), make("alpha-2"), make("beta-1")
    assert find_run().run_id == "beta-1"
    assert find_run("alpha-2").run_id == "alpha-2"
    assert find_run("be").run_id == "beta-1"
    assert find_run(str(runs_dir() / "alpha-1")).run_id == "alpha-1"
    with pytest.raises(UsageError, match="could be alpha-2, alpha-1"):
        find_run("alpha")
    with pytest.raises(UsageError, match="there is no run 'gamma'"):
        find_run("gamma")


def test_no_runs_and_no_run_directory(tmp_path):
    with pytest.raises(UsageError, match="there are no runs"):
        find_run()
    with pytest.raises(UsageError, match="is not a run directory"):
        find_run(str(tmp_path))


def test_a_run_elsewhere_is_linked(tmp_path):
    directory = make("far-1", tmp_path / "elsewhere")
    assert directory.path == tmp_path / "elsewhere" / "far-1"
    assert find_run("far").path == directory.path


def test_names_become_ids():
    assert new_run_id("my run / ü!", 0).startswith("my-run")
    assert new_run_id("../..", 0).startswith("run-")
    first = new_run_id("x", 0)
    make(first)
    assert new_run_id("x", 0) == f"{first}-2"


@pytest.mark.parametrize("run_id", ["", ".", "..", "a/b", "-x", "a" * 65, "a b"])
def test_ids_are_one_harmless_path_component(run_id):
    with pytest.raises(UsageError, match="is not a run id"):
        make(run_id)


def test_state_is_replaced_whole_and_damage_is_named():
    directory = make("x")
    assert directory.state() is None
    directory.write_state(wire.RunState(run_id="x", name="x", step=3))
    assert directory.state().step == 3
    assert [path.name for path in directory.path.iterdir() if path.name.startswith(".")] == []
    (directory.path / "state.json").write_text("{")
    with pytest.raises(RecordCorrupt, match="state.json is damaged"):
        directory.state()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make the run directory"):
        make("x", tmp_path / "file")
