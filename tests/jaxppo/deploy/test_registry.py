"""The registry of models: its verbs, what promotion demands, and what a kill or a stranger leaves behind."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import scipy.stats
from tiny_run import command, tiny_config, write_prices

import jaxppo
from jaxppo.deploy import Registry, describe_comparison, describe_model, describe_models, load_policy
from jaxppo.deploy.manifest import write_manifest
from jaxppo.deploy.models import prepare, promotion
from jaxppo.deploy.models.comparison import paired
from jaxppo.deploy.models.history import HISTORY
from jaxppo.deploy.models.naming import check_name, check_version, next_version, version_order
from jaxppo.deploy.models.returns import Returns, read_returns, write_returns
from jaxppo.errors import ConfigError
from jaxppo.run import trials
from jaxppo.run.lock import owned

N, DAY = 250, 86_400 * 10**9
MARKET = np.random.default_rng(0).normal(0.0003, 0.01, 2 * N)
"""What all models below share, bar by bar."""


pytestmark = pytest.mark.slow


def earned(edge, seed=1, n=N):
    """Returns `[n]` of the market, and an edge of so many noisy basis points a bar."""
    return MARKET[:n] + np.random.default_rng(seed).normal(edge * 1e-4, 0.002, n)


WEAK, GOOD, BETTER = earned(0.0), earned(10.0, 2), earned(20.0, 3)
"""Each is clearly better than the one before."""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Makes run folders whose preparation is made up: of a run without training and exporting."""
    made = {}

    def fake(folder, target, market=None):
        given = made[pathlib.Path(folder).name]
        (target / "policy").mkdir()
        (target / "policy" / "step.bin").write_bytes(given["model"].tobytes())
        write_manifest(target / "policy", {"name": "made up"})
        start = (np.arange(len(given["model"])) + given["first"]) * (DAY if given["timed"] else 1)
        returns = Returns(start, start + (DAY if given["timed"] else 1), given["model"], given["reference"])
        policy = trials.hashlib.sha256((target / "policy" / "manifest.json").read_bytes()).hexdigest()
        return {
            **{"run": str(folder), "commit": "c0ffee", "data_fingerprint": given["prices"], "symbols": ["AAA"]},
            **{"metrics": {"sharpe": 1.0, "sharpe_ci": [0.1, 1.9], "n_bars": len(start)}, "reference": "buy and hold"},
            **{"selection": {"dsr": given["dsr"], "trials": 3, "effective_trials": 2.5}, "gate": given["gate"]},
            **{"trial": given["trial"], "periods": 252.0, "timed": given["timed"], "first_bar": "a", "last_bar": "b"},
            "seals": {"policy": policy, "returns": write_returns(target, returns)},
        }

    def make(name, model, **changed):
        usual = {"first": 0, "timed": True, "reference": MARKET[: len(model)], "prices": "same", "dsr": 0.99}
        made[name] = {**usual, "gate": None, "trial": "none", "model": model, **changed}
        return tmp_path / "runs" / name

    monkeypatch.setattr(prepare, "prepare", fake)
    return make


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "models")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Where the registry of `two` is written once."""
    return tmp_path_factory.mktemp("written") / "models"


@pytest.fixture
def two(registry, runs, written):
    """A model with a version in production, and a better candidate: a copy of what the first test wrote."""
    made = runs("good", GOOD), runs("better", BETTER)
    if not written.exists():
        first = Registry(written)
        first.add(made[0], "trend", version="1.0.0")
        first.promote("trend", "1.0.0")
        first.add(made[1], "trend")
    shutil.copytree(written, registry.path)
    return registry


def stages(registry, name="trend"):
    return {model.version: model.stage for model in registry.list(name)}


# Verbs


def test_versions_follow_each_other(registry, runs):
    added = [registry.add(runs("good", GOOD), "trend", bump=bump) for bump in ("minor", "patch", "major", "minor")]
    assert [model.version for model in added] == ["0.1.0", "0.1.1", "1.0.0", "1.1.0"]
    assert [model.entry["parent"] for model in added] == [None, "0.1.0", "0.1.1", "1.0.0"]
    assert registry.add(runs("good", GOOD), "trend", version="2.0.0-rc.1", parent="0.1.0").entry["parent"] == "0.1.0"
    assert set(stages(registry).values()) == {"candidate"}


def test_an_entry_says_where_it_comes_from(registry, runs):
    model = registry.add(runs("good", GOOD), by="Ada")
    entry = registry.show("good").entry
    assert (model.name, entry["by"], entry["commit"], entry["data_fingerprint"]) == ("good", "Ada", "c0ffee", "same")
    assert entry["run"].endswith("runs/good")
    assert entry["when"].endswith("+00:00")
    assert entry["selection"]["trials"] == 3
    assert entry["metrics"]["sharpe_ci"] == [0.1, 1.9]


def test_promotion_archives_the_former_and_rollback_brings_it_back(two, runs):
    line = two.promote("trend", "1.1.0")
    assert line["former"] == "1.0.0"
    assert not line["forced"]
    assert all(demand["shown"] for demand in line["demands"])
    assert stages(two) == {"1.0.0": "archived", "1.1.0": "production"}
    two.rollback("trend", reason="too slow")
    assert stages(two) == {"1.0.0": "production", "1.1.0": "archived"}
    with pytest.raises(ConfigError, match="nothing to roll back to"):
        two.rollback("trend")
    two.add(runs("third", BETTER), "trend")
    two.promote("trend", "1.2.0")
    two.rollback("trend")  # not to 1.1.0, which was in production before it was rolled back
    assert stages(two) == {"1.0.0": "production", "1.1.0": "archived", "1.2.0": "archived"}


def test_staging_leaves_production_alone(two):
    assert two.promote("trend", "1.1.0", "staging")["former"] is None
    assert stages(two) == {"1.0.0": "production", "1.1.0": "staging"}
    for version, to in (("1.1.0", "staging"), ("1.0.0", "staging"), ("1.0.0", "production")):
        with pytest.raises(ConfigError, match=f"trend@{version} is in {stages(two)[version]}"):
            two.promote("trend", version, to, force=True, reason="because")


def test_comparison_is_antisymmetric_over_common_bars(two, runs):
    ours, theirs = two.compare("trend@1.1.0", "trend"), two.compare("trend@production", "trend@candidate")
    assert ours.paired.n_bars == N
    assert ours.paired.sharpe == pytest.approx(-theirs.paired.sharpe)
    assert ours.paired.p_value < 0.01 < 0.99 < theirs.paired.p_value
    two.add(runs("later", earned(0.0, 5, 2 * N)[N // 2 :], first=N // 2, prices="others"), "late")
    found = two.compare("trend@1.1.0", "late@0.1.0")
    assert found.paired.n_bars == N // 2
    assert not found.same_prices
    assert f"{N // 2} common out-of-sample bars (of different tables" in describe_comparison(found)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"first": 3 * N}, "no common out-of-sample bars"),
        ({"first": N - 10}, "10 common out-of-sample bars are too few, 16 are needed"),
        ({"timed": False}, "no common out-of-sample bars"),
        ({"model": GOOD}, "both earn the same in every bar"),
    ],
)
def test_what_cannot_be_compared_is_refused(two, runs, changed, why):
    two.add(runs("odd", **{"model": WEAK, **changed}), "odd")
    with pytest.raises(ConfigError, match=f"odd@0.1.0 and trend@1.0.0 cannot be compared: {why}"):
        two.compare("odd@candidate", "trend@1.0.0")
    two.add(runs("odd", **{"model": WEAK, **changed}), "trend", version="9.0.0")
    with pytest.raises(ConfigError, match=f"p-value against trend@1.0.0 unknown, demanded < 0.05 .{why}"):
        two.promote("trend", "9.0.0")


def test_bars_without_times_are_the_same_on_the_same_prices(registry, runs):
    for name, prices in (("a", "same"), ("b", "same"), ("c", "others")):
        registry.add(runs(name, GOOD if name == "a" else WEAK, timed=False, prices=prices))
    assert registry.compare("a@0.1.0", "b@0.1.0").paired.n_bars == N
    with pytest.raises(ConfigError, match="no common out-of-sample bars"):
        registry.compare("a@0.1.0", "c@0.1.0")


# What promotion demands


def sharpe_p_value(first, second):
    """One-sided p-value of a difference of Sharpe ratios of independent normal returns (Jobson, Korkie and Memmel)."""
    one, other = (x.mean() / x.std(ddof=1) for x in (first, second))
    rho = np.corrcoef(first, second)[0, 1]
    variance = 2 - 2 * rho + (one**2 + other**2 - 2 * one * other * rho**2) / 2
    return scipy.stats.norm.sf((one - other) / np.sqrt(variance / len(first)))


@pytest.mark.parametrize("edge", [-3.0, 0.0, 2.0, 4.0])
def test_p_values_are_those_of_formulas(edge):
    first, second = earned(edge, 11), earned(0.0, 12)
    found = paired(first, second, 252.0)
    exact = scipy.stats.ttest_rel(first, second, alternative="greater").pvalue
    assert found.mean_p_value == pytest.approx(exact, abs=0.03)
    assert found.p_value == pytest.approx(sharpe_p_value(first, second), abs=0.03)
    assert found.mean == pytest.approx((first - second).mean() * 252.0, rel=1e-4)


def test_twice_the_positions_are_no_better_model():
    found = paired(2.0 * BETTER, BETTER, 252.0)
    assert found.sharpe == pytest.approx(0.0, abs=1e-4)
    assert found.p_value > 0.05


def test_against_an_account_that_does_nothing():
    assert paired(BETTER + 0.001, np.zeros(N), 252.0).p_value < 0.05 < paired(WEAK, np.zeros(N), 252.0).p_value


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dsr": 0.9}, r"deflated Sharpe ratio 0\.9, demanded > 0\.95 \(of 3 trials\); --force"),
        ({"dsr": None}, r"deflated Sharpe ratio unknown, demanded > 0\.95"),
        ({"gate": {"t": 0.4, "share": 0.0, "traded": "base"}}, r"its gate lets trade 0, demanded > 0 \(t 0\.40; the b"),
        ({"model": WEAK}, r"p-value against trend@1\.0\.0 0\.99\d*, demanded < 0\.05 \(Sharpe ratio -\d.* 250 common"),
        ({"dsr": 0.5, "model": WEAK}, r"deflated Sharpe ratio 0\.5, .*; p-value against trend@1\.0\.0"),
    ],
)
@pytest.mark.parametrize("to", ["staging", "production"])
def test_each_demand_refuses(two, runs, tmp_path, capsys, changed, message, to):
    two.add(runs("other", **{"model": BETTER, **changed}), "trend", version="9.0.0")
    before = (tmp_path / "models" / "trend" / HISTORY).read_bytes()
    capsys.readouterr()
    assert command("models", "promote", "trend", "9.0.0", "--to", to, "--registry", tmp_path / "models") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"trend@9.0.0 is not promoted to {to}: " in said
    with pytest.raises(ConfigError, match=message):
        two.promote("trend", "9.0.0", to)
    assert (tmp_path / "models" / "trend" / HISTORY).read_bytes() == before


def test_without_a_model_in_use_the_reference_has_to_be_beaten(registry, runs):
    registry.add(runs("weak", WEAK), "trend")
    with pytest.raises(ConfigError, match=r"p-value against buy and hold 0\.\d+, demanded < 0\.05"):
        registry.promote("trend", "0.1.0")
    registry.add(runs("open", GOOD, gate={"t": 3.0, "share": 1.0, "traded": "agent"}), "trend")
    assert [demand["shown"] for demand in registry.promote("trend", "0.2.0")["demands"]] == [True, True, True]


def test_another_level(two, runs):
    two.add(runs("other", BETTER, dsr=0.9), "trend", version="9.0.0")
    assert two.promote("trend", "9.0.0", level=0.85)["demands"][0]["demanded"] == "> 0.85"
    for level in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="--level is"):
            two.promote("trend", "1.1.0", level=level)


def test_trials_since_the_adding_count(two, runs, tmp_path):
    """A run that stands out of few trials may not stand out of many."""
    register = tmp_path / "runs" / trials.REGISTER

    def record(name, returns):
        figures = {"sharpe": trials.sharpe_of(returns), "fingerprint": "f", "symbols": ("AAA",)}
        where = {"period": "test", "first": "2020-01-01", "last": "2020-12-31", "n_bars": N, "periods": 252.0}
        return trials.record(register, trials.Trial(name, "hash", 0, None, 1, **where, **figures), returns)

    key = record("other", BETTER).key
    two.add(runs("other", BETTER, trial=key), "trend", version="9.0.0")
    for seed in range(12):
        record(f"tried-{seed}", np.random.default_rng(seed).normal(0.0, 0.01, N) + (seed - 6) * 3e-4)
    with pytest.raises(ConfigError, match=r"deflated Sharpe ratio [\d.e-]+, demanded > 0\.95 \(of 13 trials\)"):
        two.promote("trend", "9.0.0")
    register.unlink()  # fewer trials than were known then: those of then count
    assert two.promote("trend", "9.0.0")["demands"][0]["measured"] == 0.99


def test_an_override_is_recorded_for_good(two, runs):
    two.add(runs("weak", WEAK, dsr=0.2), "trend", version="9.0.0")
    with pytest.raises(ConfigError, match="--force needs --reason"):
        two.promote("trend", "9.0.0", force=True)
    with pytest.raises(ConfigError, match="--reason has 0 characters"):
        two.promote("trend", "9.0.0", force=True, reason=" ")
    two.promote("trend", "9.0.0", force=True, reason="client\nasked", by="Bob")
    two.rollback("trend")
    line = two.history("trend")[-2]
    assert (line["forced"], line["reason"], line["by"]) == (True, "client asked", "Bob")
    assert [demand["shown"] for demand in line["demands"]] == [False, False]
    assert "forced to production: client asked" in describe_models(two.list())
    assert "forced: client asked; deflated Sharpe ratio 0.2, demanded > 0.95" in describe_model(
        two.show("trend", "9.0.0")
    )


def test_a_damaged_model_in_use_is_no_reason_to_pass(two, tmp_path):
    (tmp_path / "models" / "trend" / "1.0.0" / "returns.npz").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"p-value against the model in use unknown.*returns\.npz: it was changed"):
        two.promote("trend", "1.1.0")
    two.promote("trend", "1.1.0", force=True, reason="1.0.0 is damaged")
    assert stages(two)["1.1.0"] == "production"


# Changes, kills, strangers


def lines_of(registry):
    return (registry.path / "trend" / HISTORY).read_text().splitlines()


def altered(lines, number):
    return [*lines[:number], lines[number].replace('"by": "', '"by": "not '), *lines[number + 1 :]]


def sealed_anew(lines, number):
    line = {name: value for name, value in json.loads(lines[number]).items() if name != "sha256"}
    line["by"] = "not me"
    line["sha256"] = trials.hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()
    return [*lines[:number], json.dumps(line), *lines[number + 1 :]]


@pytest.mark.parametrize(
    "change",
    [
        *(lambda lines, n=n: altered(lines, n) for n in range(3)),
        *(lambda lines, n=n: sealed_anew(lines, n) for n in range(3)),
        *(lambda lines, n=n: lines[:n] + lines[n + 1 :] for n in range(3)),
        lambda lines: [],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines, "junk"],
    ],
)
def test_a_changed_history_is_found(two, change):
    (two.path / "trend" / HISTORY).write_text("".join(f"{line}\n" for line in change(lines_of(two))))
    for verb in (two.list, lambda: two.show("trend"), lambda: two.rollback("trend"), lambda: two.load("trend")):
        with pytest.raises(ConfigError, match="history"):
            verb()


@pytest.mark.parametrize("file", ["entry.json", "returns.npz", "policy/step.bin", "policy/manifest.json"])
def test_a_changed_version_is_found(two, file):
    path = two.path / "trend" / "1.1.0" / file
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1) + b" ")
    for verb in (lambda: two.show("trend", "1.1.0"), lambda: two.promote("trend", "1.1.0")):
        with pytest.raises(ConfigError, match=r"1\.1\.0"):
            verb()


def test_a_version_that_was_exchanged_is_found(two):
    shutil.rmtree(two.path / "trend" / "1.1.0")
    with pytest.raises(ConfigError, match="is missing, but the history has its version"):
        two.list()
    shutil.copytree(two.path / "trend" / "1.0.0", two.path / "trend" / "1.1.0")
    with pytest.raises(ConfigError, match="is not the entry that was added"):
        two.list()


class Killed(BaseException):
    """What no code catches."""


@pytest.mark.parametrize("verb", ["add", "promote", "rollback"])
def test_a_kill_between_two_operations_leaves_before_or_after(two, runs, monkeypatch, verb):
    two.promote("trend", "1.1.0")
    two.add(runs("best", earned(40.0, 7)), "trend")
    do = {
        "add": lambda: two.add(runs("best", earned(40.0, 7)), "trend", version="5.0.0"),
        "promote": lambda: two.promote("trend", "1.2.0"),
        "rollback": lambda: two.rollback("trend"),
    }[verb]
    before, kept = stages(two), two.path.with_name("kept")
    shutil.copytree(two.path, kept)
    do()
    after, n_kills = stages(two), 0
    assert after != before
    for number in range(30):
        shutil.rmtree(two.path)
        shutil.copytree(kept, two.path)
        left = [number]

        def stopping(operation, left=left):
            def stopped(*given, **options):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return operation(*given, **options)

            return stopped

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", stopping(os.replace))
            patched.setattr(os, "fsync", stopping(os.fsync))
            patched.setattr(pathlib.Path, "replace", stopping(pathlib.Path.replace))
            try:
                do()
                break
            except Killed:
                n_kills += 1
        found = stages(two)
        assert found in (before, after)
        assert list(found.values()).count("production") == 1
        if found == before:
            do()
        assert stages(two) == after
        two.add(runs("more", WEAK), "trend", version="8.0.0")
    assert n_kills >= 3


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_process_leaves_a_registry_that_goes_on(two, number):
    two.promote("trend", "1.1.0")
    code = f"""
import os
from jaxppo.deploy.registry import Registry
left, fsync = [{number}], os.fsync
def stopped(file):
    if left[0] == 0:
        os._exit(9)
    left[0] -= 1
    fsync(file)
os.fsync = stopped
Registry({str(two.path)!r}).rollback("trend")
"""
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 9
    assert list(stages(two).values()).count("production") == 1
    if stages(two)["1.0.0"] != "production":
        two.rollback("trend")
    assert stages(two) == {"1.0.0": "production", "1.1.0": "archived"}
    two.promote("trend", "1.1.0")


def test_an_unfinished_line_is_left_out(two):
    path = two.path / "trend" / HISTORY
    with open(path, "a") as file:
        file.write('{"action": "promote", "ver')
    assert stages(two) == {"1.0.0": "production", "1.1.0": "candidate"}
    two.promote("trend", "1.1.0")
    assert stages(two)["1.1.0"] == "production"
    assert len(lines_of(two)) == 4


def test_of_two_promotions_at_once_one_is_refused(two, runs, monkeypatch):
    two.add(runs("best", earned(40.0, 7)), "trend")
    measured, met = promotion.demands, threading.Barrier(2, timeout=60)

    def slow(*given):
        met.wait()
        met.wait()
        return measured(*given)

    monkeypatch.setattr(promotion, "demands", slow)
    first = threading.Thread(target=two.promote, args=("trend", "1.1.0"))
    first.start()
    met.wait()  # it is measuring
    with pytest.raises(ConfigError, match="another process is writing into it"):
        two.promote("trend", "1.2.0")
    assert stages(two)["1.0.0"] == "production"  # readers do not wait
    met.wait()
    first.join()
    assert stages(two) == {"1.0.0": "archived", "1.1.0": "production", "1.2.0": "candidate"}


def test_a_model_that_is_being_written_is_refused_by_all_that_write(two, runs):
    with owned(two.path / "trend"):
        for verb in (
            lambda: two.add(runs("best", BETTER), "trend"),
            lambda: two.promote("trend", "1.1.0"),
            lambda: two.rollback("trend"),
        ):
            with pytest.raises(ConfigError, match="another process is writing into it"):
                verb()
        assert len(two.list()) == 2
    assert list((two.path / ".drafts").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../trend", "a/b", "/etc", ".drafts", "a..b", "a\n", "ä", "x" * 65, "-a"]
)
def test_names_with_tricks_are_refused(two, runs, name):
    for verb in (lambda: two.add(runs("good", GOOD), name), lambda: two.list(name), lambda: two.load(name)):
        with pytest.raises(ConfigError, match="is no name"):
            verb()
    with pytest.raises(ConfigError):
        check_name(name)


@pytest.mark.parametrize(
    "version", ["1", "1.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "1.0.0/..", "1.0.0+a", "1.0.0\n"]
)
def test_what_is_no_semantic_version_is_refused(two, runs, version):
    for verb in (
        lambda: two.add(runs("good", GOOD), "trend", version=version),
        lambda: two.promote("trend", version),
        lambda: two.show("trend", version),
        lambda: two.compare(f"trend@{version}", "trend"),
        lambda: two.add(runs("good", GOOD), "trend", parent=version),
    ):
        with pytest.raises(ConfigError, match="is no semantic version"):
            verb()
    with pytest.raises(ConfigError):
        check_version(version)


def test_versions_are_ordered_as_the_standard_says():
    """Item 11 of Semantic Versioning 2.0.0."""
    names = ["alpha", "alpha.1", "alpha.beta", "beta", "beta.2", "beta.11", "rc.1"]
    ordered = [*(f"1.0.0-{name}" for name in names), "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0"]
    shuffled = [*ordered[5:], *ordered[:5]]
    assert sorted(shuffled, key=version_order) == ordered
    assert next_version(ordered) == "2.1.0"
    assert next_version([], "patch") == "0.0.1"
    with pytest.raises(ConfigError, match="allowed: major, minor, patch"):
        next_version([], "huge")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "unknown"], "model unknown is not in"),
        (["show", "trend", "7.0.0"], "has no version 7.0.0; known: 1.0.0, 1.1.0"),
        (["show", "trend", "staging"], "has no version in staging"),
        (["compare", "trend@9.9.9", "trend"], "has no version 9.9.9"),
        (["promote", "trend", "1.1.0"], "--to"),
        (["promote", "trend", "1.1.0", "--to", "moon"], "--to is 'moon'"),
        (["promote", "trend", "1.1.0", "--to", "staging", "--level", "x"], "--level: invalid float value"),
        (["rollback", "trend"], "nothing to roll back to"),
        (["add", "--run", "nowhere", "--version", "1.0.0", "--name", "trend"], "has a version 1.0.0 already"),
        ([], "VERB"),
        (["list", "--registry", "nowhere"], "no registry is there"),
    ],
)
def test_mistakes_take_one_line(two, capsys, arguments, message):
    capsys.readouterr()
    at = ["--registry", two.path] if arguments and "--registry" not in arguments else []
    assert command("models", *arguments, *at) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


def test_links_and_files_in_place_of_folders_are_refused(two, tmp_path):
    (two.path / "linked").symlink_to(two.path / "trend")
    (two.path / "file").write_text("")
    for name in ("linked", "file"):
        with pytest.raises(ConfigError, match="is no folder of a model"):
            two.show(name)
    (two.path / "trend" / "1.1.0" / "returns.npz").unlink()
    os.mkfifo(two.path / "trend" / "1.1.0" / "returns.npz")
    with pytest.raises(ConfigError, match="is not a regular file"):
        two.show("trend", "1.1.0")
    (two.path / "trend" / HISTORY).unlink()
    os.mkfifo(two.path / "trend" / HISTORY)
    with pytest.raises(ConfigError, match="is not a regular file"):
        two.list("trend")
    (tmp_path / "plain").write_text("")
    with pytest.raises(ConfigError, match="no registry is there"):
        Registry(tmp_path / "plain").list()


def test_drafts_of_killed_processes_go_and_what_a_link_leads_to_stays(two, runs, tmp_path):
    old, new = (two.path / ".drafts" / name for name in ("old", "new"))
    for folder, age in ((old, 2), (new, 0)):
        folder.mkdir()
        os.utime(folder, (time.time() - age * 86_400,) * 2)
    two.add(runs("good", GOOD), "trend")
    assert not old.exists()
    assert new.exists()
    shutil.rmtree(two.path / ".drafts")
    (tmp_path / "home" / "letters").mkdir(parents=True)
    os.utime(tmp_path / "home" / "letters", (0, 0))
    (two.path / ".drafts").symlink_to(tmp_path / "home")
    with pytest.raises(ConfigError, match="is a link to another place"):
        two.add(runs("good", GOOD), "trend")
    assert (tmp_path / "home" / "letters").exists()


def test_returns_come_back_as_they_were(tmp_path):
    returns = Returns(np.arange(3), np.arange(1, 4), GOOD[:3], WEAK[:3])
    seal = write_returns(tmp_path, returns)
    for kept, was in zip(read_returns(tmp_path, seal), returns, strict=True):
        np.testing.assert_array_equal(kept, was)
    (tmp_path / "returns.npz").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_returns(tmp_path, seal)


def test_the_script_says_what_was_done(two, capsys):
    at = ("--registry", two.path)
    assert command("models", "promote", "trend", "1.1.0", "--to", "production", "--by", "Ada", *at) == 0
    assert "Ada: 1.1.0 promoted to production, 1.0.0 archived; deflated Sharpe ratio 0.99" in capsys.readouterr().out
    assert command("models", "rollback", "trend", "--reason", "test", *at) == 0
    assert "rolled back from 1.1.0 to 1.0.0, test" in capsys.readouterr().out
    assert command("models", "compare", "trend@1.1.0", "trend", *at) == 0
    assert "250 common out-of-sample bars; trend@1.1.0 less trend@1.0.0:" in capsys.readouterr().out
    assert command("models", "list", *at) == command("models", "show", "trend", *at) == 0
    assert "1.0.0    production" in capsys.readouterr().out


# A real run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run, and a registry with it."""
    folder = tmp_path_factory.mktemp("registry")
    data = {"path": str(write_prices(folder / "prices.csv"))}
    jaxppo.train(tiny_config(data=data, training={"steps": 128, "evaluate_every": 1}), output=folder / "runs" / "tiny")
    known = trials.read(folder / "runs" / trials.REGISTER)
    return folder, known, Registry(folder / "models").add(folder / "runs" / "tiny")


def test_a_run_is_kept_with_the_figures_of_its_summary(trained):
    folder, known, model = trained
    summary = json.loads((folder / "runs" / "tiny" / "summary.json").read_text())
    out, metadata = summary["out_of_sample"], json.loads((folder / "runs" / "tiny" / "metadata.json").read_text())
    for name in ("sharpe", "total_return", "turnover", "costs", "max_drawdown", "n_bars"):
        assert model.entry["metrics"][name] == pytest.approx(out[name], rel=1e-4), name
    assert model.entry["selection"]["dsr"] == pytest.approx(summary["selection"]["out_of_sample"]["dsr"], rel=1e-4)
    assert model.entry["commit"] == metadata["commit"]
    assert model.entry["data_fingerprint"] == metadata["data"]["fingerprint"]
    register = folder / "runs" / trials.REGISTER
    assert trials.read(register) == known  # the same evaluation is no other trial
    test = next(trial for trial in known if trial.key == model.entry["trial"])
    returns = model.evaluated().returns
    np.testing.assert_allclose(returns.model, trials.load_returns(register, [test])[:, 0], atol=1e-6)
    held = (1.0 + returns.reference).prod() - 1.0
    assert held == pytest.approx(out["baseline"]["buy_and_hold"]["total_return"], rel=1e-4)
    assert str(returns.end[-1].astype("datetime64[ns]"))[:19] == out["last_bar"][:19]


def test_the_policy_in_production_trades(trained):
    folder, _, _ = trained
    registry = Registry(folder / "models")
    shutil.rmtree(folder / "runs")  # a registry does not need it
    with pytest.raises(ConfigError, match="no version in production"):
        registry.load("tiny")
    registry.promote("tiny", "0.1.0", force=True, reason="a test")
    policy, same = registry.load("tiny"), load_policy(folder / "models" / "tiny" / "0.1.0" / "policy")
    bar = {"time": "2017-01-02", "bars": {}}
    decisions = [one.step(bar) for one in (policy, same)]
    assert decisions[0].as_dict() == decisions[1].as_dict()
    assert jax.tree.all(jax.tree.map(np.array_equal, policy._weights, same._weights))


def test_loading_takes_nothing_of_a_trainer(trained):
    code = """
import sys
from jaxppo.deploy import Registry
Registry("models").load("tiny", "0.1.0")
print([name for name in ("flax", "optax", "orbax", "pydantic", "jaxppo.training", "jaxppo.ppo") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=trained[0], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr[-2000:]
