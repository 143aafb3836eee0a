"""Monte Carlo jobs in object stores, by the file system of fsspec that lives in memory."""

import uuid

import fsspec
import pytest
from cheap_paths import N_PATHS, make

from jaxppo.cli.main import main
from jaxppo.errors import ConfigError
from jaxppo.monte_carlo import merge, monte_carlo

STORE = fsspec.filesystem("memory")


@pytest.fixture(scope="module")
def paths():
    return make()


@pytest.fixture(scope="module")
def whole(paths):
    return monte_carlo(paths, N_PATHS, batch=4, progress=False)


@pytest.fixture
def url():
    return f"memory://bucket-{uuid.uuid4().hex}/job"


def files_of(url):
    root = url.removeprefix("memory:/")
    return sorted(name.removeprefix(root).lstrip("/") for name in STORE.find(root))


def test_a_job_goes_to_a_url_and_goes_on_from_there(paths, whole, url, monkeypatch):
    job = monte_carlo(paths, N_PATHS, output=url, batch=4, progress=False)
    assert job.url == url
    assert job.table.frame().equals(whole.table.frame())
    parts = [f"parts/part_{number:06d}.parquet" for number in range(6)]
    assert files_of(url) == sorted(["job.json", *parts, "report.html", "summary.json"])
    root = url.removeprefix("memory:/")
    STORE.rm(f"{root}/{parts[2]}")
    STORE.pipe(f"{root}/{parts[4]}", STORE.cat(f"{root}/{parts[4]}")[:-9])
    computed, compute = [], paths.compute
    monkeypatch.setattr(paths, "compute", lambda batches: computed.extend(batches) or compute(batches))
    again = monte_carlo(paths, N_PATHS, output=url, progress=False)
    assert computed == [2, 4], "what is missing, and what is damaged"
    assert again.table.frame().equals(whole.table.frame())
    assert again.summary == whole.summary
    with pytest.raises(ConfigError, match="is the folder of another job: its n_paths is 22, not 8"):
        monte_carlo(paths, 8, output=url, progress=False)


def test_shards_of_urls_are_merged_to_a_url(paths, whole, url):
    shards = [f"{url}/{index}" for index in range(2)]
    for index, shard in enumerate(shards):
        monte_carlo(paths, N_PATHS, output=shard, shard=(index, 2), batch=4, progress=False)
    merged = merge(shards, f"{url}/all")
    assert merged.table.frame().equals(whole.table.frame())
    assert {"job.json", "summary.json", "report.html"} < set(files_of(f"{url}/all"))


def test_what_cannot_be_used_is_named(paths, url, monkeypatch):
    STORE.pipe(url.removeprefix("memory:/") + "/letters.txt", b"mine")
    with pytest.raises(ConfigError, match=r"--output memory://\S+ is not empty, and holds none of job.json"):
        monte_carlo(paths, N_PATHS, output=url, progress=False)
    assert files_of(url) == ["letters.txt"]
    with pytest.raises(ConfigError, match=r"--output nowhere://x cannot be used: .*nowhere"):
        monte_carlo(paths, N_PATHS, output="nowhere://x", progress=False)

    def refuse(*_, **__):
        raise RuntimeError("AccessDenied: no rights\nmore of it")

    monkeypatch.setattr(type(STORE), "put_file", refuse)
    with pytest.raises(OSError, match=r"^--output memory://other/job cannot be written: AccessDenied: no rights$"):
        monte_carlo(paths, N_PATHS, output="memory://other/job", progress=False)


def test_a_report_behind_a_url_is_not_opened(capsys):
    assert main(["monte-carlo", "--run", "runs/x", "--output", "s3://bucket/job", "--open"]) == 2
    assert "--open needs a local --output" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "walk-forward", "sweep"])
def test_a_run_takes_no_url(command, capsys):
    name = "sweep" if command == "sweep" else "quickstart"
    assert main([command, "--config", name, "--output", "s3://bucket/run"]) == 2
    assert "--output is s3://bucket/run; it must be a local folder" in capsys.readouterr().err
