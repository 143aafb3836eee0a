"""Processes that train together, as threads here: how they find each other, agree, and end together."""

import contextlib
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

import jaxppo
from jaxppo.config import load_config
from jaxppo.errors import ConfigError
from jaxppo.run import processes, rendezvous
from jaxppo.run.processes import Group

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Service:
    """The key-value store of `jax.distributed`, in memory."""

    def __init__(self):
        self.content, self.changed, self.gone = {}, threading.Condition(), False

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.changed:
            assert allow_overwrite or key not in self.content
            self.content[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key, timeout_in_ms):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.content or self.gone, timeout_in_ms / 1000):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
            if self.gone:
                raise jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed")
            return self.content[key]

    def key_value_dir_get(self, folder):
        if self.gone:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed")
        return [(key, value) for key, value in self.content.items() if key.startswith(folder)]

    def key_value_delete(self, key):
        del self.content[key]


@pytest.fixture
def group(monkeypatch):
    """`index -> Group` of three processes on one service; what ends a process is written down instead."""
    service, exits = Service(), []
    monkeypatch.setattr(processes, "BEAT", 0.01)
    monkeypatch.setattr(processes, "GRACE", 0.1)
    monkeypatch.setattr(processes, "LOST_AFTER", 1.2)
    monkeypatch.setattr(processes, "_failed", False)

    def leave(code):
        exits.append(code)
        raise SystemExit  # of the thread

    monkeypatch.setattr(os, "_exit", leave)

    def make(index):
        made = Group()
        made.count, made.index, made.leads = 3, index, index == 0
        made._name, made._client = "jaxppo/0", service
        return made

    make.service, make.exits = service, exits
    return make


def wait_for(condition):
    """Waits until it holds; fails after ten seconds."""
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def test_one_process_alone_waits_for_nobody():
    alone = Group()
    with alone.together():
        alone.tell("iterate")
        alone.agree("the configuration", {"seed": 1})
        tree = {"a": jax.numpy.ones(3)}
        assert alone.share(tree) is tree
        assert alone.gather(tree) is tree
    assert alone.leads
    assert not processes.failed()


@pytest.mark.parametrize(
    ("job", "name"), [(jaxppo.sweep.sweep, "a sweep"), (jaxppo.walk_forward.walk_forward, "a walk-forward")]
)
def test_other_jobs_run_in_one_process(job, name, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match=f"{name} runs in one process, and 2 are joined; only training takes several"):
        job(load_config("quickstart"))


def test_orders_are_heard_in_order_by_all_and_old_ones_are_deleted(group):
    leader, others = group(0), [group(1), group(2)]
    for number in range(20):
        leader.tell("iterate", spent=number / 20)
        for other in others:
            assert other.hear("iterate") == {"do": "iterate", "spent": number / 20}
    assert len(group.service.content) == 8
    leader.tell("save")
    with pytest.raises(RuntimeError, match="process 0 says save, where end is expected"):
        others[0].hear("end")


def test_a_difference_is_named_on_all_processes(group):
    given = [{"seed": 1, "ppo.gamma": 0.9}, {"seed": 1, "ppo.gamma": 0.9}, {"seed": 1, "ppo.gamma": 0.5}]

    def outcome(index):
        try:
            group(index).agree("the configuration", given[index])
        except ConfigError as error:
            return str(error)

    with ThreadPoolExecutor(3) as threads:
        lines = set(threads.map(outcome, range(3)))
    assert lines == {
        "the configuration differs between processes: ppo.gamma is 0.5 on process 2 and 0.9 on process 0; give all the "
        "same"
    }
    group.service.content.clear()
    given[2] = given[0]
    with ThreadPoolExecutor(3) as threads:
        assert set(threads.map(outcome, range(3))) == {None}


@pytest.mark.parametrize("lost", [0, 2])
def test_a_process_without_a_sign_of_life_ends_the_others(group, capfd, lost):
    watching = 1 - lost // 2
    group(lost)._show(0)
    with group(watching).together():
        wait_for(lambda: group.exits)
    assert group.exits == [75]
    host = socket.gethostname()
    expected = f"error: process {lost} of 3 on {host} is gone; go on from its last checkpoint with --resume"
    assert expected in capfd.readouterr().err
    sign = json.loads(group.service.content[f"jaxppo/0/sign/{watching}"])
    assert sign["ended"]["code"] in (0, 75)


def test_processes_that_live_or_have_finished_end_nobody(group):
    with contextlib.ExitStack() as running:
        for index in (0, 1):
            running.enter_context(group(index).together())
        with group(2).together():
            time.sleep(0.1)
        time.sleep(2 * processes.LOST_AFTER)
        assert json.loads(group.service.content["jaxppo/0/sign/2"])["ended"]["code"] == 0
    assert not group.exits


def test_without_process_0_the_others_end(group, capfd):
    with group(1).together():
        group.service.gone = True
        with group.service.changed:
            group.service.changed.notify_all()
        wait_for(lambda: len(group.exits) == 2)  # the line to it, and the signs of life
    assert set(group.exits) == {75}
    assert "error: process 0 of 3 is gone; go on from its last checkpoint with --resume" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("data.path is 'x.csv'"), 2), (OSError("No space left"), 74), (MemoryError("all"), 75)],
)
def test_an_error_on_one_process_ends_the_others_with_its_line_and_its_code(group, capfd, error, code):
    def mistaken():
        with group(2).together():
            raise error

    with group(0).together():
        with ThreadPoolExecutor(1) as thread, pytest.raises(type(error)):
            thread.submit(mistaken).result()
        wait_for(lambda: group.exits)
    assert group.exits == [code]
    assert processes.failed()
    assert f"error: process 2 of 3 ended: {error}" in capfd.readouterr().err


def test_a_process_that_gives_up_before_it_trains_ends_the_others(group, monkeypatch, capfd):
    monkeypatch.setattr(processes, "Group", lambda: group(1))
    with group(0).together():
        processes.give_up(2, "x.yaml: no such config file")
        wait_for(lambda: group.exits)
    assert group.exits == [2]
    assert "error: process 1 of 3 ended: x.yaml: no such config file" in capfd.readouterr().err


def test_a_signal_of_any_process_reaches_the_leader(group):
    leader, other, stop = group(0), group(1), []
    leader.stop_with(stop, "runs/x")
    other.stop_with([15])
    with leader.together(), other.together():
        wait_for(lambda: stop)
    assert stop == [15]


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((None, "2", None), "several processes need --coordinator HOST:PORT, --processes N and --process I"),
        (("a:1", None, "0"), "several processes need --coordinator"),
        (("a:1", "auto", None), "--processes is auto, which takes no --coordinator"),
        (("a:1", "two", "0"), "--processes is 'two'; it must be a whole number from 1"),
        (("a:1", "0", "0"), "--processes is '0'"),
        (("a:1", "2", "2"), "--process is '2'; it must be a whole number from 0 to 1"),
        (("a:1", "2", "-1"), "--process is '-1'"),
        (("a", "2", "0"), "--coordinator is 'a'; it must be HOST:PORT"),
        (("a:99999", "2", "0"), "--coordinator is 'a:99999'"),
        (("a:b:c", "2", "0"), "--coordinator is 'a:b:c'"),
    ],
)
def test_what_is_wrong_with_the_options_is_named(given, said):
    with pytest.raises(ConfigError) as error:
        rendezvous.join(*given, patience=0.1)
    assert said in str(error.value)


def test_nothing_given_is_one_process():
    assert rendezvous.join(None, None, None) == (0, 1)
    assert rendezvous.join("a:1", "1", "0") == (0, 1)


def test_a_coordinator_that_is_not_there_is_named():
    port = free_port()
    with pytest.raises(ConfigError, match=rf"--coordinator localhost:{port} cannot be reached in 0 s: .*refused"):
        rendezvous.join(f"localhost:{port}", "2", "1", patience=0.2)
    with pytest.raises(ConfigError, match=r"--coordinator no-such-host\.invalid:1 cannot be reached"):
        rendezvous.join("no-such-host.invalid:1", "2", "1", patience=0.2)


def test_process_0_names_who_is_missing_and_a_port_that_is_taken():
    with pytest.raises(ConfigError, match="after 0 s process 1, 2 of 3 has not come"):
        rendezvous.join(f"localhost:{free_port()}", "3", "0", patience=0.2)
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--coordinator: port {port} cannot be used here"):
            rendezvous.join(f"localhost:{port}", "2", "0", patience=0.2)


def outcomes(*calls):
    """Messages of processes that are joined at the same time; None where all is well."""

    def outcome(call):
        try:
            return call()
        except ConfigError as error:
            return str(error)

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(outcome, calls))


def test_processes_find_each_other_and_strangers_are_ignored():
    port = free_port()
    address, passed = ("localhost", port), threading.Event()

    def stranger():
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=5) as line:
                line.sendall(b"GET / HTTP/1.1\r\n\r\n")
                break
            time.sleep(0.01)
        passed.set()

    def after_the_stranger(index):
        assert passed.wait(15.0)
        rendezvous._arrive(address, index, 3, 10.0)

    found = outcomes(
        lambda: rendezvous._gather(port, 3, 10.0),
        stranger,
        lambda: after_the_stranger(1),
        lambda: after_the_stranger(2),
    )
    assert found == [None] * 4


def test_a_process_with_another_number_of_processes_or_a_number_that_is_taken_ends_all():
    port = free_port()
    address = ("localhost", port)
    found = outcomes(lambda: rendezvous._gather(port, 3, 10.0), lambda: rendezvous._arrive(address, 1, 2, 10.0))
    assert found == ["processes is 2 on process 1 and 3 on process 0"] * 2
    found = outcomes(
        lambda: rendezvous._gather(port, 3, 10.0),
        lambda: rendezvous._arrive(address, 1, 3, 10.0),
        lambda: rendezvous._arrive(address, 1, 3, 10.0),
    )
    assert set(found) >= {"--process 1 was given to two processes"}
    assert found[0] == "--process 1 was given to two processes"
