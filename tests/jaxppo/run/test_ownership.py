"""Folders of runs: one owner, whole files, checked checkpoints, and strangers' surprises."""

import json
import os
import socket
import subprocess

import numpy as np
import pytest

from jaxppo.config import load_config
from jaxppo.errors import ConfigError
from jaxppo.run import folder as run_folder
from jaxppo.run import lock
from jaxppo.run.build import unfinished_note
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.lock import NAME, owned

STATE = {"weights": np.arange(600, dtype=np.float32).reshape(20, 30), "bias": np.ones(7, np.float32)}


@pytest.fixture
def other(tmp_path):
    """Another process on this host, which owns the folder."""
    process = subprocess.Popen(["sleep", "60"])
    owner = {"pid": process.pid, "host": socket.gethostname(), "started": lock._started(process.pid)}
    (tmp_path / NAME).write_text(json.dumps(owner))
    yield process
    process.kill()
    process.wait()


def test_a_folder_has_one_owner(tmp_path, other):
    with pytest.raises(ConfigError, match=rf"is writing into it \(process {other.pid} on "), owned(tmp_path):
        pass
    assert (tmp_path / NAME).exists()


def test_a_folder_is_free_afterwards(tmp_path):
    for _ in range(2):
        with owned(tmp_path):
            assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
            with pytest.raises(ConfigError, match="another process is writing into it"), owned(tmp_path):
                pass
        assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("gone", ["killed", "number used again"])
def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path, other, gone):
    other.kill()
    other.wait()
    if gone == "number used again":
        owner = json.loads((tmp_path / NAME).read_text())
        (tmp_path / NAME).write_text(json.dumps({**owner, "pid": os.getpid()}))
    with owned(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "junk", '{"pid": 1, "host": "elsewhere"}', "[]"])
def test_a_lock_of_another_host_or_that_cannot_be_read_is_respected(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with pytest.raises(ConfigError, match=r"delete .*\.lock if it is gone"), owned(tmp_path):
        pass
    assert (tmp_path / NAME).read_text() == content


def test_a_new_run_finds_its_folder_empty(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with (
        pytest.raises(ConfigError, match="not empty: another process has written into it"),
        owned(tmp_path, empty=True),
    ):
        pass


def test_what_a_killed_start_leaves_is_not_in_the_way(tmp_path):
    for name in (NAME, "config.yaml.part"):
        (tmp_path / name).write_text("")
    run_folder.check_output(tmp_path)
    (tmp_path / NAME).unlink()
    with owned(tmp_path, empty=True):
        run_folder.write_config(tmp_path, load_config())
    for kind in (run_folder.RUN, run_folder.WALK_FORWARD):  # killed before it said what it is
        assert run_folder.open_folder(tmp_path, kind)[1] == load_config()
    run_folder.write_metadata(tmp_path, {}, finished=False)
    with pytest.raises(ConfigError, match="the folder of a run"):
        run_folder.open_folder(tmp_path, run_folder.WALK_FORWARD)


def test_the_configuration_is_written_in_one_move_and_left_alone_where_it_is_the_same(tmp_path, monkeypatch):
    config = load_config()
    run_folder.write_config(tmp_path, config)
    before = (tmp_path / "config.yaml").stat()
    run_folder.write_config(tmp_path, config)
    assert (tmp_path / "config.yaml").stat().st_mtime_ns == before.st_mtime_ns

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        run_folder.write_config(tmp_path, load_config(overrides=["--seed", "5"]))
    assert load_config(tmp_path / "config.yaml") == config


def saved(folder, *steps):
    checkpoints = Checkpoints(folder, 5)
    for step in steps:
        checkpoints.save(step, {name: array + step for name, array in STATE.items()}, {"iteration": step})
    return checkpoints


def flip(path, generator):
    data = bytearray(path.read_bytes())
    data[generator.integers(len(data))] ^= 1 << generator.integers(8)
    path.write_bytes(data)


@pytest.mark.parametrize("listed", [True, False])
def test_a_flipped_bit_of_the_arrays_is_found(tmp_path, listed):
    """Every flip is refused, or changes nothing; also in a checkpoint that was killed before its files were listed."""
    generator, refused = np.random.default_rng(0), 0
    checkpoints = saved(tmp_path / "last", 1)
    if not listed:
        (tmp_path / "last" / "1" / "files.json").unlink()
    files = [path for path in (tmp_path / "last" / "1" / "state").rglob("*") if path.is_file() and path.stat().st_size]
    for _ in range(50):
        path = files[generator.integers(len(files))]
        whole = path.read_bytes()
        flip(path, generator)
        try:
            found, host = checkpoints.restore(STATE)
            assert host == {"iteration": 1}
            for name, array in STATE.items():
                np.testing.assert_array_equal(found[name], array + 1)
        except ConfigError:
            refused += 1
        path.write_bytes(whole)
    assert refused > 10 if not listed else refused == 50


def test_the_newest_whole_checkpoint_is_used_and_the_damaged_one_is_named(tmp_path, capsys):
    checkpoints = saved(tmp_path / "last", 3, 6)
    largest = max((tmp_path / "last" / "6" / "state").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 4
    largest.write_bytes(data)
    found, host = checkpoints.restore_newest(STATE)
    assert host == {"iteration": 3}
    np.testing.assert_array_equal(found["bias"], STATE["bias"] + 3)
    assert "last/6: damaged" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="damaged"):
        checkpoints.restore(STATE)


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/best", "checkpoints/best/2"])
def test_links_out_of_a_run_are_refused_and_nothing_is_deleted(tmp_path, place):
    victim, run = tmp_path / "victim", tmp_path / "run"
    for name in ("2019", "2024", "best/2019"):
        (victim / name).mkdir(parents=True)
        (victim / name / "mine.txt").write_text("mine")
    path = run / place
    path.parent.mkdir(parents=True)
    path.symlink_to(victim, target_is_directory=True)
    with pytest.raises(ConfigError, match="is a link to another place"):
        Checkpoints(run / "checkpoints" / "best", 2).discard_after(0)
    assert (victim / "2019" / "mine.txt").exists()


def test_folders_that_are_only_named_like_checkpoints_are_left_alone(tmp_path):
    checkpoints = saved(tmp_path / "best", 2)
    (tmp_path / "best" / "2019").mkdir()
    (tmp_path / "best" / "2019" / "mine.txt").write_text("mine")
    Checkpoints(tmp_path / "best", 2).discard_after(0)
    checkpoints.close()
    assert (tmp_path / "best" / "2019" / "mine.txt").exists()
    assert not (tmp_path / "best" / "2").exists()


@pytest.mark.parametrize(
    "text",
    ['{"iteration": "a"}\n', '{"iteration": NaN}\n', '{"iteration": 2}\n{"iteration": 1}\n', "[1]\n", "\xff\xfe\n"],
)
def test_damaged_metrics_are_one_line(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: damaged"):
        run_folder.read_metrics(tmp_path)


@pytest.mark.parametrize("metadata", ['{"kind": [1]}', '{"kind": "book"}', "[]", "junk", "[" * 9999, '{"format": "a"}'])
def test_a_folder_with_damaged_metadata_is_not_opened(tmp_path, metadata):
    run_folder.write_config(tmp_path, load_config())
    (tmp_path / "metadata.json").write_text(metadata)
    with pytest.raises(ConfigError, match=r"metadata\.json: damaged"):
        run_folder.open_folder(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        {"fingerprint": 5},
        3,
        {"fingerprint": "a", "learned_from": []},
        {"fingerprint": "a", "learned_from": {"symbols": ["A"], "last": "junk"}},
        {"fingerprint": "a", "learned_from": {"symbols": [5], "last": None}},
    ],
)
def test_what_a_run_has_learned_from_is_sound(tmp_path, data):
    run_folder.write_metadata(tmp_path, {"data": data}, finished=True)
    with pytest.raises(ConfigError, match=r"metadata\.json: (missing or )?damaged"):
        run_folder.read_data(tmp_path)


def test_a_run_says_whether_it_is_finished(tmp_path):
    assert not run_folder.is_finished(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    assert run_folder.is_finished(tmp_path), "as of a version that did not say so"
    for finished in (False, True):
        run_folder.write_metadata(tmp_path, {}, finished=finished)
        assert run_folder.is_finished(tmp_path) == finished
        assert (unfinished_note(tmp_path) == "") == finished


def test_the_configuration_of_a_run_is_that_which_it_wrote(tmp_path):
    run_folder.write_config(tmp_path, load_config())
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(ConfigError, match=r"config\.yaml: was changed after the run wrote it.*delete its last line"):
        run_folder.open_folder(tmp_path)
    path.write_text(path.read_text().rpartition("# sha256")[0])
    assert run_folder.open_folder(tmp_path)[1].seed == 1


def test_rows_of_a_log_are_complete(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n{"iteration": 2}\n')
    assert len(run_folder.read_metrics(tmp_path, least=2)) == 2
    with pytest.raises(ConfigError, match="it has 2 iterations of 3"):
        run_folder.read_metrics(tmp_path, least=3)
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n{"iteration": 3}\n')
    with pytest.raises(ConfigError, match="row 2 is of iteration 3; 2 is expected"):
        run_folder.read_metrics(tmp_path)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_an_owner_writes_nothing_elsewhere(tmp_path, kind):
    """A folder of a stranger may hold links, which a writer would follow."""
    run = tmp_path / "run"
    (run / "deep").mkdir(parents=True)
    (tmp_path / "mine.txt").write_text("mine")
    if kind == "link":
        (run / "deep" / "report.html").symlink_to(tmp_path / "mine.txt")
    else:
        os.mkfifo(run / "deep" / "report.html")
    with pytest.raises(ConfigError, match=r"report\.html: is a link to another place, or no regular file"), owned(run):
        pass
    assert not (run / NAME).exists()


def test_only_one_takes_over_a_lock(tmp_path, other, monkeypatch):
    """Two processes have seen that the owner is gone; the second one finds the first."""
    other.kill()
    other.wait()
    gone = lock._owner(tmp_path / NAME)
    with owned(tmp_path):
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on"):
            lock._take_over(tmp_path / NAME, gone)
        assert lock._owner(tmp_path / NAME)["pid"] == os.getpid()


def test_a_process_that_ends_gives_up_its_folders(tmp_path):
    with owned(tmp_path):
        lock.release()
        assert not (tmp_path / NAME).exists()


def test_a_checkpoint_of_another_number_or_with_another_dict_is_damaged(tmp_path):
    checkpoints = saved(tmp_path / "last", 1)
    (tmp_path / "last" / "1").rename(tmp_path / "last" / "2")
    with pytest.raises(ConfigError, match="last/2: damaged: it does not hold what was saved"):
        Checkpoints(tmp_path / "last", 5).restore(STATE, 2)
    (tmp_path / "last" / "2").rename(tmp_path / "last" / "1")
    path = tmp_path / "last" / "1" / "host" / "metadata"
    path.write_text(path.read_text().replace('"iteration": 1', '"iteration": 7'))
    with pytest.raises(ConfigError, match="last/1: damaged: host/metadata is not what was saved"):
        checkpoints.restore(STATE)
    (tmp_path / "last" / "1" / "files.json").unlink()
    with pytest.raises(ConfigError, match="last/1: damaged: it does not hold what was saved"):
        checkpoints.restore(STATE)


def test_what_lies_in_the_way_of_a_checkpoint_is_named(tmp_path):
    checkpoints = saved(tmp_path / "last", 1)
    (tmp_path / "last" / "2").mkdir()
    with pytest.raises(ConfigError, match="last/2: is in the way"):
        checkpoints.save(2, STATE, {})
