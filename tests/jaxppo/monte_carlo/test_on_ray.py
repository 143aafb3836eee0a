"""Monte Carlo over Ray: the numbers of one process, lost workers, mistakes; by a stand-in of Ray, and once by Ray."""

import functools
import importlib.util
import os
import pickle
import signal
import socket
import sys
import types

import cheap_paths
import pytest
from cheap_paths import N_PATHS, make, make_compiled

from jaxppo.cli.main import main
from jaxppo.errors import ConfigError
from jaxppo.monte_carlo import PathsOnRay, monte_carlo, on_ray


@pytest.fixture(scope="module")
def whole():
    return monte_carlo(make(), N_PATHS, batch=4, progress=False)


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class StandIn(types.SimpleNamespace):
    """As much of Ray as is used, in one process; `lose(number of the task)` says which workers are lost."""

    def __init__(self, lose=lambda number: False, newest=True, **resources):
        self.started, self.lose, self.tasks, self.most, self.options = [], lose, 0, 0, {}
        self.next = -1 if newest else 0
        self.resources = {"CPU": 2.0, **resources}
        self.exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.cloudpickle = pickle
        self.running = []

    def is_initialized(self):
        return False

    def init(self, address, **options):
        self.started.append(address)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as Ray does

    def shutdown(self):
        self.started.append("ended")

    def cluster_resources(self):
        return self.resources

    def put(self, value):
        return pickle.loads(pickle.dumps(value))

    def remote(self, **options):
        self.options = options

        def wrapped(function):
            def call(*arguments):
                self.tasks += 1
                self.running.append((self.tasks, function, pickle.dumps(arguments)))
                self.most = max(self.most, len(self.running))
                return self.running[-1]

            return types.SimpleNamespace(remote=call)

        return wrapped

    def wait(self, references, timeout):
        return [references[self.next]], [one for one in references if one is not references[self.next]]

    def get(self, reference):
        self.running.remove(reference)
        number, function, arguments = reference
        if self.lose(number):
            raise RayError("the worker died: SIGKILL")
        try:
            return function(*pickle.loads(arguments))
        except Exception as error:
            raise RayTaskError(error) from None


@pytest.fixture
def ray(monkeypatch):
    """Puts a stand-in in the place of Ray."""

    def use(**options):
        made = StandIn(**options)
        monkeypatch.setitem(sys.modules, "ray", made)
        monkeypatch.setattr(on_ray, "POLL", 0.0)
        on_ray._opened.cache_clear()
        return made

    return use


def assert_same(one, other):
    assert one.table.frame().equals(other.table.frame())
    assert one.summary == other.summary


def test_the_numbers_are_those_of_one_process(ray, whole, tmp_path):
    used = ray()
    before = signal.getsignal(signal.SIGTERM)
    found = monte_carlo(PathsOnRay(make, "auto"), N_PATHS, output=tmp_path / "job", batch=4, progress=False)
    assert_same(found, whole)
    assert used.started == ["auto", "ended"]
    assert used.options == {"max_retries": 0, "num_cpus": 1, "num_gpus": 0}
    assert used.tasks == 6
    assert used.most == 4, "two parts for each of two workers"
    assert signal.getsignal(signal.SIGTERM) is before
    assert_same(monte_carlo(make(), N_PATHS, output=tmp_path / "job", progress=False), whole)


def test_what_lost_workers_had_is_computed_again(ray, whole, capsys):
    used = ray(lose=lambda number: number in (2, 3))
    found = monte_carlo(PathsOnRay(make), N_PATHS, batch=4, progress=False)
    assert_same(found, whole)
    assert used.tasks == 8
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("a worker is lost, part") for line in lines)
    assert all(line.endswith("is computed again: the worker died: SIGKILL") for line in lines)


def test_a_part_that_is_always_lost_ends_the_job_and_the_rest_is_kept(ray, whole, tmp_path):
    ray(lose=lambda number: number > 3, newest=False)
    with pytest.raises(
        ConfigError, match=r"--ray local: the workers of part . were lost 5 times; what is computed is kept"
    ):
        monte_carlo(PathsOnRay(make), N_PATHS, output=tmp_path, batch=4, progress=False)
    kept = len(list((tmp_path / "parts").glob("*.parquet")))
    assert 1 <= kept < 6
    used = ray()
    assert_same(monte_carlo(PathsOnRay(make), N_PATHS, output=tmp_path, progress=False), whole)
    assert used.tasks == 6 - kept
    again = ray()
    assert_same(monte_carlo(PathsOnRay(make), N_PATHS, output=tmp_path, progress=False), whole)
    assert again.started == [], "nothing is left to compute"


def test_a_worker_with_other_prices_is_refused(ray):
    ray()
    paths = PathsOnRay(make)
    paths._made = pickle.dumps(functools.partial(make, volatility=0.03))
    with pytest.raises(
        ConfigError, match=r"a worker on \S+ has another generator_digest: .* it needs the same run, prices"
    ):
        monte_carlo(paths, N_PATHS, batch=4, progress=False)


def test_other_errors_of_a_worker_are_not_hidden(ray):
    ray()
    paths = PathsOnRay(make)
    paths._made = pickle.dumps(functools.partial(divmod, 1, 0))
    with pytest.raises(RayTaskError, match="division"):
        monte_carlo(paths, N_PATHS, batch=4, progress=False)


def test_a_cluster_that_cannot_be_reached_is_named(ray):
    used = ray()

    def refuse(address, **options):
        raise ConnectionError("Could not find any running\nRay instance")

    used.init = refuse
    with pytest.raises(ConfigError, match="--ray is 'auto', where no cluster can be reached: Could not find any"):
        monte_carlo(PathsOnRay(make, "auto"), N_PATHS, progress=False)
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"localhost:{port}", f"ray://localhost:{port}"):
        with pytest.raises(ConfigError, match=f"--ray is '{address}', where nobody answers: Connection refused"):
            monte_carlo(PathsOnRay(make, address), N_PATHS, progress=False)
    for address in ("", "here", "host:", "host:99999", "http://host:1"):
        with pytest.raises(ConfigError, match=f"--ray is '{address}'; it must be local, auto, HOST:PORT or ray://"):
            monte_carlo(PathsOnRay(make, address), N_PATHS, progress=False)


def test_without_ray_the_extra_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["monte-carlo", "--run", str(tmp_path), "--ray", "local"]) == 2
    assert "--ray needs the package ray" in capsys.readouterr().err
    assert main(["monte-carlo", "--merge", str(tmp_path), "--ray", "local"]) == 2
    assert "--merge takes no --ray" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs jaxppo[ray]")
def test_ray_itself(whole):
    import ray

    ray.cloudpickle.register_pickle_by_value(cheap_paths)  # workers do not know the tests
    compiled = functools.partial(make_compiled, os.environ.get("JAXPPO_TEST_AS_USERS") != "1")
    assert_same(monte_carlo(PathsOnRay(compiled), N_PATHS, batch=4, progress=False), whole)
