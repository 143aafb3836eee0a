"""A user's mistakes: exit code 2 and one line on what, where and what is allowed; nothing compiled or touched."""

import json
import os
import shutil

import jax
import pytest
import yaml
from tiny_run import (
    command,
    merged,
    prices,
    snapshot,
    write_config,
    write_prices,
)

from jaxppo.cli.watching import Watched
from jaxppo.envs.market import features
from jaxppo.run import folder as run_folder
from jaxppo.run import setup
from jaxppo.training import trainer


def test_the_finished_run_can_be_watched(finished):
    """And is none of the mistakes."""
    view = Watched(finished / "run").look()
    assert view[::2] == ("finished", True)
    text = "\n".join(view.lines)
    assert "100%  iteration 3  384 of 384 steps" in text
    assert all(
        needle in text for needle in ("validation  iteration 3: ", "best so far iteration ", "test        Sharpe")
    )


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working directory with `prices.csv` and `tiny.yaml`."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path)
    return tmp_path


@pytest.fixture
def nothing_compiles(monkeypatch):
    """Fails a test that gets as far as building features or the learner."""

    def reached(*arguments, **options):
        raise AssertionError("a user's mistake must be found before anything is compiled")

    monkeypatch.setattr(trainer, "make_learner", reached)
    monkeypatch.setattr(setup, "make_actor_critic", reached)
    monkeypatch.setattr(features, "compute_features", reached)


def refused(capfd, folder, script, *arguments):
    """The one line of a refusal that touches nothing under `folder`."""
    before = snapshot(folder)
    capfd.readouterr()
    assert command(script, *arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert len(err) < 500, "a line that nobody reads"
    assert snapshot(folder) == before
    return err


CONFIG_FILES = {
    "broken YAML": ("ppo: {paths: 8\ndata: [", ["tiny.yaml line 2", "not valid YAML"]),
    "tabs": ("ppo:\n\tpaths: 8", ["tiny.yaml line 2", "not valid YAML"]),
    "a list": ("- a\n- b", ["tiny.yaml", '["a", "b"]', "mapping"]),
    "a word": ("hello", ["tiny.yaml", '"hello"', "mapping"]),
    "two documents": ("seed: 1\n---\nseed: 2", ["tiny.yaml line 2", "not valid YAML"]),
    "a key twice": ("seed: 1\nppo:\n  clip: 0.1\n  clip: 0.2", ["tiny.yaml line 4", "'clip'", "twice"]),
    "a section twice": ("ppo: {clip: 0.1}\nppo: {paths: 8}", ["tiny.yaml line 2", "'ppo'", "twice"]),
    "a Python object": ("seed: !!python/name:os.system", ["tiny.yaml line 1", "not valid YAML", "python/name"]),
    "a wrong tag": ("seed: !!int abc", ["tiny.yaml", "'abc'"]),
    "an alias to itself": ("data: &a {path: *a}", ["tiny.yaml", "ircular"]),
    "a list as a key": ("? [a]\n: 1", ["tiny.yaml", "not valid YAML"]),
    "a number as a key": ("1: 2", ["tiny.yaml", "'1'", "seed"]),
    "a number with too many digits": (f"seed: {'9' * 5000}", ["tiny.yaml", "digits"]),
    "nested too deeply": ("seed: " + "[" * 5000, ["tiny.yaml", "nested"]),
    "no budget": ("seed: 1", ["tiny.yaml", "training.steps", "none"]),
}


@pytest.mark.parametrize("case", CONFIG_FILES)
def test_config_files(case, workplace, capfd, nothing_compiles):
    text, needles = CONFIG_FILES[case]
    (workplace / "tiny.yaml").write_text(text, encoding="utf-8")
    line = refused(capfd, workplace, "train", "--config", "tiny.yaml")
    assert all(needle in line for needle in needles), line


RAW_FILES = {
    "binary": (bytes(range(256)), ["not a text file in UTF-8", "0x80"]),
    "Latin-1": ("data: {path: Börse.csv}".encode("latin-1"), ["not a text file in UTF-8", "0xf6"]),
    "UTF-16": ("seed: 1".encode("utf-16"), ["not a text file in UTF-8"]),
    "a zero byte": (b"seed: \x00", ["not valid YAML", "#x0000"]),
}


@pytest.mark.parametrize("case", RAW_FILES)
def test_config_files_that_are_not_text(case, workplace, capfd, nothing_compiles):
    content, needles = RAW_FILES[case]
    (workplace / "tiny.yaml").write_bytes(content)
    line = refused(capfd, workplace, "train", "--config", "tiny.yaml")
    assert all(needle in line for needle in ["tiny.yaml", *needles]), line


VALUES = {
    "typo in a constraint": ({"constraints": [{"turnovr": {"limit": 1}}]}, ["constraints[0].turnovr", "turnover?"]),
    "constraint without a limit": ({"constraints": ["cvar"]}, ["constraints[0].cvar.limit is missing"]),
    "constraint out of range": (
        {"constraints": [{"max_drawdown": {"limit": 1.5}}]}, ["constraints[0].max_drawdown.limit is 1.5", "[1e-06, 1]"]
    ),
    "a method that is none": (
        {"constraints": [{"cvar": {"limit": 0.1, "method": "pi"}}]}, ["constraints[0].cvar.method", "pid, lagrangian"]
    ),
    "a constraint twice": (
        {"constraints": [{"turnover": {"limit": 1}}, {"turnover": {"limit": 2}}]}, ["constraints name turnover more"]
    ),
    "constraints without trading": (
        {"constraints": [{"turnover": {"limit": 1}}], "env": {"name": "CartPole-v1"}},
        ["constraints limit trading", "CartPole"],
    ),
    "leverage below the smallest": (
        {"constraints": [{"leverage": {"limit": 0.4}}], "env": {"levels": [0.5, 1.0]}},
        ["constraints[0].leverage.limit is 0.4", "[0.5, 1.0]", "0.5"],
    ),
    "objective of no kind": ({"objective": {"kind": "var"}}, ['objective.kind is "var"', "cvar"]),
    "objective out of range": ({"objective": {"kind": "cvar", "level": 1.0}}, ["objective.level is 1", "number in ["]),
    "an equity outside trading": (
        {"objective": {"kind": "cvar", "outcome": "log"}, "env": {"name": "CartPole-v1"}},
        ["objective.outcome log", "CartPole", "must be reward"],
    ),
    "two risk aversions": (
        {"objective": {"kind": "cvar"}, "env": {"risk_aversion": 3.0}},
        ["env.risk_aversion is 3", "objective.kind cvar", "leave it at 1"],
    ),
    "a mask twice": ({"masks": ["no_short", "no_short"]}, ["masks[1] names no_short, which masks[0] has"]),
    "a path without end": ({"data": {"path": "x" * 1_000_000}}, ["data.path", "File name too long"]),
    "a name without end": ({"y" * 100_000: 1}, ["unknown key 'yyy"]),
    "typo in a mask": ({"masks": [{"volatility_kap": {"target": 1}}]}, ["masks[0].volatility_kap", "volatility_cap?"]),
    "typo in a mask's key": ({"masks": [{"turnover": {"limt": 1}}]}, ["'masks[0].turnover.limt'", "mean limit?"]),
    "mask out of range": ({"masks": ["no_short", {"turnover": {"limit": 0}}]}, ["masks[1].turnover.limit is 0", "06]"]),
    "mask without a key": ({"masks": ["volatility_cap"]}, ["masks[0].volatility_cap.target is missing"]),
    "two masks in one": ({"masks": [{"no_short": {}, "halt": {}}]}, ["masks[0] is", "one name"]),
    "masks not a list": ({"masks": {"no_short": {}}}, ["masks is", "list of"]),
    "group of strangers": (
        {"masks": [{"risk_budget": {"groups": {"tech": {"symbols": ["ZZZ"], "limit": 1.0}}}}]},
        ["masks[0].risk_budget: groups tech: 'ZZZ' is not in the market", "AAA, BBB"],
    ),
    "masks without positions": ({"masks": ["no_short"], "env": {"name": "CartPole-v1"}}, ["masks limit", "CartPole"]),
    "sizing without positions": (
        {"sizing": [{"projection": {"weight": 0.5}}], "env": {"name": "CartPole-v1"}},
        ["sizing sizes", "CartPole"],
    ),
    "typo in sizing": ({"sizing": [{"kely": {}}]}, ["sizing[0].kely", "kelly?"]),
    "sizing out of range": (
        {"sizing": [{"drawdown_control": {"limit": 1.5, "move": 0.1}}]},
        ["sizing[0].drawdown_control.limit is 1.5", "[1e-06, 0.999999]"],
    ),
    "a limit without its move": (
        {"sizing": [{"drawdown_control": {"limit": 0.1}}]},
        ["sizing[0].drawdown_control.move is missing"],
    ),
    "scaling what was capped": (
        {"sizing": [{"drawdown_control": {"limit": 0.1, "move": 0.05}}, {"volatility_target": {"target": 0.1}}]},
        ["sizing[1].volatility_target comes after drawdown_control", "put it before"],
    ),
    "Kelly of what was scaled": (
        {"sizing": ["equal_risk_contribution", "kelly"]},
        ["sizing[1].kelly comes after equal_risk_contribution", "shares"],
    ),
    "sizing twice": ({"sizing": ["kelly", "kelly"]}, ["sizing names kelly twice"]),
    "a floor and slow orders": (
        {"sizing": [{"drawdown_control": {"limit": 0.1, "move": 0.05}}], "env": {"latency_bars": 2}},
        ["env.latency_bars is 2", "sizing[0].drawdown_control needs env.latency_bars 1"],
    ),
    "a floor and fills in the past": (
        {"sizing": [{"drawdown_control": {"limit": 0.1, "move": 0.05}}], "env": {"fill_price": "decision_close"}},
        ["env.fill_price is decision_close", "next_open"],
    ),
    "nothing projected": ({"sizing": ["projection"]}, ["sizing[0].projection: a projection must limit something"]),
    "a window longer than the market": (
        {"sizing": [{"kelly": {"window": 5000}}]},
        ["sizing[0].kelly: window is 5000 bars; the market has 420"],
    ),
    "nothing limited": ({"masks": [{"risk_budget": {}}]}, ["masks[0].risk_budget: a risk budget must limit something"]),
    "hours of daily bars": ({"masks": [{"session": {"calendar": "XNYS"}}]}, ["masks[0].session: trading hours", "day"]),
    "regime mask without regimes": (
        {"masks": [{"regime": {"force": True}}], "regimes": {"kind": "rules"}},
        ["masks[0].regime: the mask must limit something", "sideways"],
    ),
    "halt of nothing": ({"masks": [{"halt": {"bars": 5}}]}, ["masks[0].halt: halt must limit something"]),
    "a regime that never comes": (
        {"masks": [{"regime": {"sideways": [0, 1]}}], "regimes": {"kind": "hmm"}},
        ["masks[0].regime names sideways", "states 3 never gives", "bull, bear, crisis"],
    ),
    "empty book": ({"sizing": [{"book": {"strategies": []}}]}, ["book.strategies is []", "non-empty list"]),
    "typo in a strategy": ({"sizing": [{"book": {"strategies": ["agnt"]}}]}, ["strategies.0.agnt", "mean agent?"]),
    "no agent in a book": ({"sizing": [{"book": {"strategies": ["trend"]}}]}, ["sizing[0].book: ", "leaves out agent"]),
    "a run that is not there": (
        {"sizing": [{"book": {"strategies": ["agent", {"run": "nowhere"}]}}]},
        ["sizing[0].book: strategies[1].run: nowhere", "not a run folder"],
    ),
    "cut below readmission": (
        {"sizing": [{"book": {"strategies": ["agent"], "cut": 0.1, "readmit": 0.2}}]},
        ["sizing[0].book: ", "readmit is 0.2; it must be less than cut, which is 0.1"],
    ),
    "Kelly after a book": (
        {"sizing": [{"book": {"strategies": ["agent"]}}, "kelly"]},
        ["sizing[1].kelly comes after book", "put it before"],
    ),
    "a mask that is a number": ({"masks": [5]}, ["masks[0] is 5", "one name"]),
    "half a range": (
        {"masks": [{"regime": {"bull": [0]}}], "regimes": {"kind": "rules"}},
        ["masks[0].regime.bull is [0]"],
    ),
    "unknown reward": ({"rewards": ["sharpe"]}, ["unknown key 'rewards[0].sharpe'", "differential_sharpe"]),
    "penalty without a weight": ({"rewards": ["cvar_penalty"]}, ["rewards[0].cvar_penalty.weight is missing"]),
    "reward out of range": ({"rewards": [{"scale": {"factor": 0}}]}, ["rewards[0].scale.factor is 0", "number in ["]),
    "reward that drops another": (
        {"rewards": [{"turnover_penalty": {"weight": 1}}, "log_return"]},
        ["rewards[1].log_return replaces the reward", "rewards[0].turnover_penalty would do nothing"],
    ),
    "rewards of no account": (
        {"rewards": ["log_return"], "env": {"name": "CartPole-v1"}},
        ["rewards shape", "CartPole"],
    ),
    "rewards that nothing reads": (
        {"rewards": [{"turnover_penalty": {"weight": 1}}], "objective": {"kind": "cvar"}},
        ["rewards[0].turnover_penalty shapes the reward", "objective.kind cvar of the simple return takes its place"],
    ),
    "typo in a limit": ({"monitor": [{"drawdon": {"limit": 0.2}}]}, ["'monitor[0].drawdon'", "mean drawdown?"]),
    "limit without its level": ({"monitor": ["drawdown"]}, ["monitor[0].drawdown.limit is missing"]),
    "limit out of range": ({"monitor": [{"drawdown": {"limit": 1.0}}]}, ["monitor[0].drawdown.limit is 1.0", "1e-06"]),
    "warning out of range": (
        {"monitor": [{"net": {"limit": 1.0, "warning": 1.5}}]},
        ["monitor[0].net.warning is 1.5", "[1e-06, 1]"],
    ),
    "stop that is no flag": ({"monitor": [{"net": {"limit": 1.0, "stop": 1}}]}, ["monitor[0].net.stop is 1", "true"]),
    "limit watched twice": (
        {"monitor": [{"net": {"limit": 1.0}}, {"net": {"limit": 2.0}}]},
        ["monitor[1] names net, which monitor[0] has"],
    ),
    "limits of no account": (
        {"monitor": [{"net": {"limit": 1.0}}], "env": {"name": "CartPole-v1"}},
        ["monitor watches", "CartPole"],
    ),
    "key of a mask without keys": ({"masks": [{"no_short": {"x": 1}}]}, ["'masks[0].no_short.x'", "known: none"]),
    "no such calendar": ({"masks": [{"session": {"calendar": "XNYX"}}]}, ["masks[0].session: ", "XNYX"]),
    "a model without variance": (
        {"regimes": {"kind": "hmm", "states": 2, "model": [0.5, 0.5, 0.9, 0.1, 0.1, 0.9, -1.0, 1.0, 1.0, 0.0]}},
        ["regimes.model: variances are [1.0, 0.0]", "> 0"],
    ),
    "a model whose transitions are none": (
        {"regimes": {"kind": "hmm", "states": 2, "model": [0.5, 0.5, 0.9, 0.2, 0.1, 0.9, -1.0, 1.0, 1.0, 1.0]}},
        ["regimes.model: transitions from state 0 are [0.9, 0.2]", "sum to 1"],
    ),
    "a model out of order": (
        {"regimes": {"kind": "hmm", "states": 2, "model": [0.5, 0.5, 0.9, 0.1, 0.1, 0.9, 1.0, -1.0, 1.0, 1.0]}},
        ["regimes.model: means are [1.0, -1.0]", "order"],
    ),
    "hours without calendar": ({"masks": ["session"]}, ["masks[0].session: calendar is absent"]),
    "regime mask alone": ({"masks": [{"regime": {"bull": [0, 1]}}]}, ["masks names regime", "regimes.kind is none"]),
    "regime features alone": ({"features": {"groups": ["regime"]}}, ["features.groups names regime", "rules or hmm"]),
    "states": ({"regimes": {"kind": "hmm", "states": 7}}, ["regimes.states is 7", "[2, 6]"]),
    "half a model": ({"regimes": {"kind": "hmm", "model": [1.0]}}, ["regimes.model has 1 numbers", "18"]),
    "typo in a key": ({"ppo": {"lerning_rate": 1}}, ["'ppo.lerning_rate'", "did you mean ppo.learning_rate"]),
    "typo in a section": ({"polcy": {"width": 8}}, ["'polcy'", "did you mean policy"]),
    "key in the wrong section": ({"policy": {"clip": 0.1}}, ["'policy.clip'", "did you mean ppo.clip"]),
    "key without its section": ({"learning_rate": 1}, ["'learning_rate'", "did you mean ppo.learning_rate"]),
    "text for a number": ({"ppo": {"clip": "wide"}}, ['ppo.clip is "wide"', "number in ["]),
    "a fraction for a count": ({"ppo": {"paths": 8.5}}, ["ppo.paths is 8.5", "whole number in [1,"]),
    "true for a count": ({"ppo": {"paths": True}}, ["ppo.paths is true", "whole number"]),
    "a number for true or false": ({"data": {"adjust": 1}}, ["data.adjust is 1", "true or false"]),
    "nothing for a number": ({"ppo": {"gamma": None}}, ["ppo.gamma is null", "number in [0.001, 1]"]),
    "a number for text": ({"data": {"path": 3}}, ["data.path is 3", "text"]),
    "a number for a section": ({"ppo": 3}, ["ppo is 3", "section"]),
    "a list for a section": ({"data": ["us5_1d"]}, ['data is ["us5_1d"]', "section"]),
    "a section for a number": ({"seed": {"a": 1}}, ['seed is {"a": 1}', "whole number"]),
    "below its range": ({"ppo": {"clip": -0.1}}, ["ppo.clip is -0.1", "number in ["]),
    "above its range": ({"ppo": {"gamma": 1.5}}, ["ppo.gamma is 1.5", "[0.001, 1]"]),
    "too many layers": ({"policy": {"layers": 10**6}}, ["policy.layers is 1000000", "[1, 256]"]),
    "more than float32 holds": ({"env": {"initial_cash": 1e39}}, ["env.initial_cash is 1e+39", "1e+15]"]),
    "not a number": ({"ppo": {"learning_rate": float("nan")}}, ["ppo.learning_rate is NaN", "number in ["]),
    "infinite": ({"costs": {"impact": float("inf")}}, ["costs.impact is Infinity", "number in [0,"]),
    "negative seed": ({"seed": -1}, ["seed is -1", "[0, 2147483648)"]),
    "not a choice": ({"policy": {"kind": "lstm"}}, ['policy.kind is "lstm"', "transformer, mlp"]),
    "an empty list": ({"env": {"levels": []}}, ["env.levels is []", "non-empty list"]),
    "text in a list of numbers": ({"env": {"levels": [0, "long"]}}, ['env.levels is [0, "long"]', "list of number"]),
    "levels out of order": ({"env": {"levels": [1.0, 0.0]}}, ["env.levels [1.0, 0.0]", "increasing"]),
    "levels beyond 1": ({"env": {"levels": [0.0, 2.0]}}, ["env.levels [0.0, 2.0]", "[-1, 1]"]),
    "no flat level": (
        {"env": {"levels": [0.5, 1.0], "actions": "hierarchical"}},
        ["env.levels [0.5, 1.0]", "must hold 0", "hierarchical"],
    ),
    "buckets beyond 1": ({"env": {"gross_buckets": [0.5, 2.0]}}, ["env.gross_buckets [0.5, 2.0]", "(0, 1]"]),
    "buckets out of order": ({"env": {"gross_buckets": [1.0, 0.5]}}, ["env.gross_buckets [1.0, 0.5]", "increasing"]),
    "one continuous level": ({"env": {"levels": [1.0], "actions": "continuous"}}, ["env.levels [1.0]", "continuous"]),
    "an unknown feature group": ({"features": {"groups": ["news"]}}, ['features.groups is ["news"]', "technical"]),
    "a feature group twice": ({"features": {"groups": ["price", "price"]}}, ["features.groups", "once"]),
    "fills in the past": ({"env": {"fill_price": "decision_close", "latency_bars": 2}}, ["env.latency_bars is 2"]),
    "liquidated at once": ({"costs": {"max_leverage": 4.0}}, ["maintenance_margin 0.25", "costs.max_leverage 4.0"]),
    "heads that do not divide": ({"policy": {"heads": 3}}, ["policy.width 16", "policy.heads = 6"]),
    "minibatches that do not divide": ({"ppo": {"minibatches": 3}}, ["ppo.paths 8", "ppo.minibatches 3"]),
    "micro-batch that does not divide": ({"ppo": {"micro_batch": 3}}, ["ppo.micro_batch is 3", "4 paths"]),
    "no quantile": ({"policy": {"quantiles": 0}}, ["policy.quantiles is 0", "[1, 256]"]),
    "an unknown distortion": ({"ppo": {"distortion": "var"}}, ['ppo.distortion is "var"', "none, cvar, wang, power"]),
    "a distortion of one value": (
        {"ppo": {"distortion": "wang", "distortion_level": 0.5}},
        ["ppo.distortion wang", "policy.quantiles must be at least 2"],
    ),
    "a distortion without a level": (
        {"policy": {"quantiles": 8}, "ppo": {"distortion": "cvar"}},
        ["ppo.distortion cvar needs ppo.distortion_level"],
    ),
    "a level without a distortion": ({"ppo": {"distortion_level": 0.5}}, ["ppo.distortion_level is 0.5", "none"]),
    "a share that quantiles cannot tell": (
        {"policy": {"quantiles": 8}, "ppo": {"distortion": "cvar", "distortion_level": 0.05}},
        ["ppo.distortion_level is 0.05", "[0.125, 1]"],
    ),
    "more than everything": (
        {"policy": {"quantiles": 8}, "ppo": {"distortion": "cvar", "distortion_level": 1.5}},
        ["ppo.distortion_level is 1.5", "[0.125, 1]"],
    ),
    "risk in hindsight": (
        {
            "policy": {"quantiles": 8},
            "ppo": {"distortion": "power", "distortion_level": 1.0, "hindsight_critic": True},
        },
        ["ppo.distortion power excludes ppo.hindsight_critic"],
    ),
    "a clip of quantiles": (
        {"policy": {"quantiles": 8}, "ppo": {"value_loss": "clipped"}},
        ["ppo.value_loss is clipped", "policy.quantiles 8", "ppo.quantile_kappa"],
    ),
    "a mixture of distributions": (
        {"policy": {"quantiles": 8}, "ppo": {"target_n_step": 0.5}},
        ["ppo.target_n_step is 0.5", "policy.quantiles 8"],
    ),
    "a lambda-return of distributions": (
        {"policy": {"quantiles": 8}, "ppo": {"target_lambda": 0.9}},
        ["ppo.target_lambda is 0.9", "policy.quantiles 8"],
    ),
    "a quantile loss of one value": ({"ppo": {"quantile_kappa": 0.1}}, ["ppo.quantile_kappa is 0.1", "quantiles 1"]),
    "an episode without end": ({"env": {"episode_chunks": 2**20}, "ppo": {"chunk": 2**20}}, ["env.episode_chunks"]),
    "two budgets": ({"training": {"steps": 1, "minutes": 1}}, ["training.steps and training.minutes"]),
    "negative minutes": ({"training": {"minutes": -1}}, ["training.minutes is -1", "number in ["]),
    "half a step": ({"training": {"steps": 0.5}}, ["training.steps is 0.5", "whole number"]),
    "shares beyond 1": ({"data": {"train": 0.7, "validation": 0.3}}, ["data.train 0.7 + data.validation", "below 1"]),
    "a share of 0": ({"data": {"validation": 0.0}}, ["data.validation is 0.0", "[1e-06, 0.999999]"]),
    "shares and dates": ({"data": {"train": ["2015-01-01", "2015-06-30"]}}, ["data.train", "all shares or all"]),
    "one date": ({"data": {"train": ["2015-01-01"]}}, ['data.train is ["2015-01-01"]', "[first, last]"]),
    "a year for a date": ({"data": {"train": [2015, 2016]}}, ["data.train is [2015, 2016]", "2010-12-31"]),
    "no symbol": ({"data": {"symbols": []}}, ["data.symbols is []", "non-empty list"]),
    "a signal that costs eat up": (
        {"data": {"path": "simulated"}, "simulation": {"sharpe": 8.0, "persistence": 0.1, "half_spread": 0.1}},
        ["simulation.sharpe is 8", "half_spread 0.1", "cost is 0.1001; it must be lower"],
    ),
    "a signal beyond everything": (
        {"data": {"path": "simulated"}, "simulation": {"sharpe": 100.0, "n_assets": 1}},
        ["simulation.sharpe is 100", "must lie in (0, 16.2)"],
    ),
    "symbols of a simulated market": (
        {"data": {"path": "simulated", "symbols": ["SIM1"]}, "simulation": {"kind": "gbm"}},
        ["data.symbols is ['SIM1']", "leave it out", "SIM1 to SIM4"],
    ),
    "dates of a simulated market": (
        {"data": {"path": "simulated", "start": "2020-01-01"}, "simulation": {"kind": "gbm"}},
        ["data.start is 2020-01-01", "leave it out", "simulation.n_bars"],
    ),
    "an unknown market": ({"simulation": {"kind": "lognormal"}}, ['simulation.kind is "lognormal"', "costly_factor"]),
    "more bars than nanoseconds": ({"simulation": {"n_bars": 100000}}, ["simulation.n_bars is 100000", "65536]"]),
    "too few simulated bars": (
        {"data": {"path": "simulated"}, "simulation": {"kind": "gbm", "n_bars": 20}},
        ["data.train is 0.6", "20 bars"],
    ),
    "an unknown device": ({"device": "npu"}, ['device is "npu"', "auto, cpu, gpu, tpu"]),
    "an absent device": ({"device": "tpu"}, ["device is 'tpu'", "this machine has cpu"]),
    "too many devices": ({"training": {"devices": 99}}, ["training.devices is 99", f"has {len(jax.devices())}"]),
    "paths that devices cannot share": (
        {"training": {"devices": 3}},
        ["ppo.paths / ppo.minibatches = 4", "3 devices", "training.devices"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_values(case, workplace, capfd, nothing_compiles):
    changes, needles = VALUES[case]
    tree = merged()
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(tree.get(name), dict)
        tree[name] = {**tree[name], **value} if both else value
    (workplace / "tiny.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    line = refused(capfd, workplace, "train", "--config", "tiny.yaml")
    assert all(needle in line for needle in needles), line


ARGUMENTS = {
    "no config": ([], ["--config is required"]),
    "a config that is not there": (["--config", "typo.yaml"], ["typo.yaml", "no such config file"]),
    "an empty path": (["--config", ""], ["path of the config file is empty"]),
    "a folder": (["--config", "."], [".: is a folder", "YAML file"]),
    "a path through a file": (["--config", "tiny.yaml/x"], ["tiny.yaml/x", "cannot be read: Not a directory"]),
    "a name that is too long": (["--config", "x" * 300], ["cannot be read: File name too long"]),
    "unknown option": (["--verbose", "1"], ["unknown option --verbose", "known keys"]),
    "unknown option of a section": (["--ppo.zzzzzzzz", "1"], ["known keys of ppo are", "more"]),
    "an option without end": (["--" + "x" * 10_000, "1"], ["unknown option --xxx"]),
    "unknown option without a value": (["--silent"], ["unknown option --silent"]),
    "an abbreviation": (["--out", "x"], ["unknown option --out"]),
    "a typo in an option": (["--ppo.learningrate", "1"], ["--ppo.learningrate", "did you mean --ppo.learning_rate"]),
    "an option without its section": (["--learning-rate", "1"], ["did you mean --ppo.learning_rate"]),
    "an option without a value": (["--ppo.clip"], ["--ppo.clip has no value"]),
    "an option before another one": (["--ppo.clip", "--seed", "1"], ["--ppo.clip has no value"]),
    "a stray word": (["fast"], ["unexpected argument 'fast'"]),
    "a section given a number": (["--ppo", "3"], ["--ppo is 3", "section"]),
    "a value out of range": (["--ppo.clip", "0"], ["--ppo.clip is 0", "number in ["]),
    "a value that is not YAML": (["--env.levels", "[0, 1"], ["--env.levels: '[0, 1'", "not valid YAML"]),
    "minutes with steps": (["--minutes", "1", "--steps", "2"], ["--steps", "not allowed with argument --minutes"]),
    "minutes with dotted steps": (["--minutes", "1", "--training.steps", "2"], ["--training.steps", "one budget"]),
    "minutes in words": (["--minutes", "abc"], ['minutes is "abc"', "number in ["]),
    "no minutes": (["--minutes", "0"], ["minutes is 0", "number in ["]),
    "minutes below zero": (["--minutes", "-1"], ["minutes is -1", "number in ["]),
    "minutes not finite": (["--minutes", ".nan"], ["minutes is NaN", "number in ["]),
    "steps in part": (["--steps", "1.5"], ["steps is 1.5", "whole number"]),
    "episodes below one": (["--episodes", "0"], ["episodes is 0", "whole number in [1,"]),
    "seed in words": (["--seed", "lucky"], ['--seed is "lucky"', "whole number"]),
    "an output that is not empty": (["--output", "full"], ["--output full is not empty", "--resume"]),
    "an output that is a file": (["--output", "tiny.yaml"], ["tiny.yaml is a file", "folder"]),
    "an output below a file": (["--output", "tiny.yaml/run"], ["--output tiny.yaml/run", "tiny.yaml is a file"]),
    "an empty output": (["--output", ""], ["--output is empty"]),
    "an output with too long a name": (["--output", "x" * 300], ["File name too long"]),
    "resume without output": (["--resume"], ["--resume needs --output"]),
    "resume without a run": (["--resume", "--output", "full"], ["full: not a run folder", "config.yaml"]),
    "resume of nothing": (["--resume", "--output", "nowhere"], ["nowhere: not a run folder"]),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(case, workplace, capfd, nothing_compiles):
    arguments, needles = ARGUMENTS[case]
    (workplace / "full").mkdir()
    (workplace / "full" / "notes.txt").write_text("mine")
    config = [] if "--config" in arguments or case == "no config" else ["--config", "tiny.yaml"]
    line = refused(capfd, workplace, "train", *config, *arguments)
    assert all(needle in line for needle in needles), line


def bars(change):
    """The clean prices with something done to them, as CSV text."""
    frame = prices(n_bars=120).reset_index(drop=True)
    return change(frame).to_csv(index=False)


def with_cell(row, column, value):
    def change(frame):
        frame[column] = frame[column].astype(object)
        frame.loc[row, column] = value
        return frame

    return change


DATA_FILES = {
    "empty": ("", ["prices.csv", "empty"]),
    "a header alone": ("date,symbol,open,high,low,close,volume\n", ["prices.csv", "no rows"]),
    "no header": ("hello\nworld\n", ["prices.csv", "'hello'"]),
    "no close": (bars(lambda f: f.drop(columns="close")), ["prices.csv", "no column for close"]),
    "no times": (bars(lambda f: f.drop(columns="date")), ["prices.csv", "no column of times"]),
    "a negative price": (bars(with_cell(7, "low", -1.0)), ["AAA, line 9", "low is -1", "--data.on_bad_rows drop"]),
    "a missing price": (bars(with_cell(7, "close", None)), ["line 9", "close is missing", "--data.on_bad_rows drop"]),
    "text for a price": (bars(with_cell(7, "open", "n.a!")), ["line 9", "n.a!"]),
    "high below low": (bars(with_cell(7, "high", 1.0)), ["line 9", "high 1 is below low", "--data.on_bad_rows drop"]),
    "an unreadable date": (bars(with_cell(7, "date", "someday")), ["line 9", "someday", "--data.on_bad_rows drop"]),
    "ambiguous dates": (
        bars(lambda f: f.assign(date=[f"0{1 + i % 9}/0{1 + i % 7}/2015" for i in range(len(f))])),
        ["prices.csv", "--data.day_first true or --data.day_first false"],
    ),
    "two rows for one day": (
        bars(lambda f: f.assign(date=f["date"].where(f.index != 8, f["date"].shift(1)))),
        ["AAA, line 10", "--data.on_duplicates first"],
    ),
    "an unadjusted split": (
        bars(lambda f: f.assign(**{c: f[c].where(f.index != 60, f[c] * 9) for c in ("open", "high", "low", "close")})),
        ["AAA, line 62", "log", "--data.max_log_jump"],
    ),
    "too few bars": (bars(lambda f: f.groupby("symbol").head(40)), ["data.train is 0.6", "40 bars"]),
}


@pytest.mark.parametrize("case", DATA_FILES)
def test_data_files(case, workplace, capfd, nothing_compiles):
    text, needles = DATA_FILES[case]
    (workplace / "prices.csv").write_text(text, encoding="utf-8")
    line = refused(capfd, workplace, "train", "--config", "tiny.yaml", "--output", "run")
    assert all(needle in line for needle in needles), line


DATA_OPTIONS = {
    "a column of features that is not there": (
        ["--features.columns", "{news: [sentiment]}"],
        ["no column 'sentiment', which features.columns.news names; found date"],
    ),
    "a column that is not there": (["--data.columns", "[mood]"], ["no column 'mood', which data.columns names"]),
    "carry that is not there": (
        ["--features.groups", "price,carry"],
        ["features.groups names carry", "no column carry"],
    ),
    "a normalisation that nothing reads": (
        ["--features.groups", "price", "--features.normalise", "{volume: scale}"],
        ["features.normalise names volume", "not among features.groups"],
    ),
    "quotes that are not there": (["--data.spread", "quoted"], ["bars have no bid and ask", "invariance"]),
    "a fixed spread without a value": (["--data.spread", "fixed"], ["half_spread need each other"]),
    "a tick of another symbol": (["--data.tick", "{XYZ: 0.01}"], ["tick has a value for XYZ"]),
    "a multiplier of another symbol": (["--data.multiplier", "{XYZ: 50}"], ["multiplier has a value for XYZ"]),
    "a multiplier that is none": (["--data.multiplier", "0"], ["data.multiplier is 0", "number in"]),
    "futures that are not there": (["--data.futures", "AAA,XYZ"], ["futures names XYZ, which is none of AAA"]),
    "futures that are a number": (
        ["--data.futures", "3.5"],
        ["data.futures is 3.5", "true or false or non-empty list"],
    ),
    "margin of futures without any": (
        ["--costs.margin_volatility", "5"],
        ["costs.margin_volatility is 5, but no asset is a future", "data.futures"],
    ),
    "a file that is not there": (["--data.path", "typo.csv"], ["typo.csv", "no such file", "us5_1d"]),
    "a name that is too long": (["--data.path", "x" * 300], ["data.path", "File name too long"]),
    "a kind of file that is not read": (["--data.path", "tiny.yaml"], ["tiny.yaml", ".csv"]),
    "a folder without prices": (["--data.path", "empty"], ["empty", "no price files"]),
    "a parquet file that is none": (["--data.path", "fake.parquet"], ["fake.parquet", "cannot be read"]),
    "an unknown symbol": (["--data.symbols", "AAA,ZZZ"], ["no symbol 'ZZZ'", "AAA"]),
    "a symbol twice": (["--data.symbols", "AAA,AAA"], ["'AAA' more than once"]),
    "an unknown calendar": (["--data.calendar", "XNYZ"], ["--data.calendar XNYZ", "XNYS"]),
    "an unknown time zone": (["--data.timezone", "Mars/Base"], ["--data.timezone Mars/Base", "America/New_York"]),
    "a window longer than the data": (
        ["--policy.kind", "transformer", "--policy.window", "400"],
        ["data.train is 0.6", "420 bars", "window"],
    ),
    "a purge longer than the data": (["--data.purge-bars", "900"], ["data.validation is 0.15", "purge"]),
    "a chunk longer than the period": (["--ppo.chunk", "512"], ["data.train is 0.6", "it needs 512"]),
}
DATES = {
    "overlapping": ("2015-01-01,2016-01-31", "2016-01-15,2016-04-29", ["data.validation", "2016-01-15", "data.train"]),
    "outside the data": ("1999-01-01,1999-12-31", "2016-01-15,2016-04-29", ["data.train", "1999", "2015-01-01"]),
    "backwards": ("2016-01-31,2015-01-01", "2016-02-15,2016-04-29", ["data.train", "must not lie before its first"]),
    "no such day": ("2015-01-01,2015-02-30", "2016-02-15,2016-04-29", ["data.train", "'2015-02-30'", "2010-12-31"]),
}
for _case, (_train, _validation, _needles) in DATES.items():
    _options = ["--data.train", _train, "--data.validation", _validation, "--data.test", "2016-05-15,2016-08-01"]
    DATA_OPTIONS[f"dates {_case}"] = (_options, _needles)


@pytest.mark.parametrize("case", DATA_OPTIONS)
def test_data_options(case, workplace, capfd, nothing_compiles):
    options, needles = DATA_OPTIONS[case]
    (workplace / "empty").mkdir()
    (workplace / "fake.parquet").write_text("not parquet")
    line = refused(capfd, workplace, "train", "--config", "tiny.yaml", "--output", "run", *options)
    assert all(needle in line for needle in needles), line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize(("target", "mode"), [("tiny.yaml", 0), ("prices.csv", 0), ("closed", 0o500)])
def test_no_permission(target, mode, workplace, capfd, nothing_compiles):
    (workplace / "closed").mkdir()
    (workplace / target).chmod(mode)
    try:
        assert command("train", "--config", "tiny.yaml", "--output", "closed/run") == 2
    finally:
        (workplace / target).chmod(0o700)
    err = capfd.readouterr().err
    assert target in err
    assert err.count("\n") == 1


RESUMES = {
    "another network": (["--policy.width", "32"], ["policy.width is 32", "16", "training"]),
    "other prices": (["--data.path", "other.csv"], ["data.path is"]),
    "other rewards": (["--rewards", "[log_return]"], ["rewards is", "log_return"]),
    "other limits": (["--monitor", "[{net: {limit: 1}}]"], ["monitor watches net", "started with nothing"]),
    "another seed": (["--seed", "3"], ["seed is 3", "7"]),
    "other costs": (["--costs.impact", "0.1"], ["costs.impact is 0.1", "0.6"]),
    "another objective": (["--objective.kind", "cvar"], ["objective.kind is 'cvar'", "'expected'"]),
    "a constraint more": (["--constraints", "[{turnover: {limit: 3}}]"], ["constraints is", "turnover"]),
    "another way to decide": (["--evaluation.decision", "mode"], ["evaluation.decision is 'mode'", "'mean'"]),
}


@pytest.mark.parametrize("case", RESUMES)
def test_resuming_a_different_run(case, finished, capfd, nothing_compiles):
    options, needles = RESUMES[case]
    line = refused(capfd, finished, "train", "--resume", "--output", finished / "run", *options)
    assert all(needle in line for needle in [*needles, "--resume"]), line


def damage_config(run):
    (run / "config.yaml").write_text("ppo: [")


def damage_metadata(run):
    (run / "metadata.json").write_text("{")


def damage_prices(run):
    write_prices(run.parent / "prices.csv", seed=1)


def lose_checkpoints(run):
    shutil.rmtree(run / "checkpoints")


def stop_before_validation(run):
    shutil.rmtree(run / "checkpoints" / "best")
    metadata = run_folder.read_metadata(run)
    run_folder.write_metadata(run, {key: metadata[key] for key in metadata if key != "finished"}, finished=False)


def damage_checkpoints(run):
    shutil.rmtree(run / "checkpoints" / "last" / "2")  # of two damaged ones a line each would be written
    for path in run.glob("checkpoints/*/*/state/manifest.ocdbt"):
        path.write_bytes(b"junk")


def damage_metrics(run):
    (run / "metrics.jsonl").write_text("{\n{}\n")


DAMAGES = {
    "configuration": (damage_config, ["config.yaml line 1", "not valid YAML"], "both"),
    "metadata": (damage_metadata, ["metadata.json", "damaged"], "both"),
    "prices": (damage_prices, ["prices are not those", "fingerprint"], "both"),
    "lost checkpoints": (lose_checkpoints, ["checkpoints/best", "no checkpoint found"], "backtest"),
    "stopped early": (stop_before_validation, ["not trained far enough", "jaxppo train --resume --output"], "backtest"),
    "damaged checkpoints": (damage_checkpoints, ["checkpoints/", "damaged"], "both"),
    "metrics": (damage_metrics, ["metrics.jsonl", "damaged"], "train"),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_runs(case, finished, tmp_path, capfd):
    damage, needles, script = DAMAGES[case]
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run, config = tmp_path / "run", finished / "tiny.yaml"
    if case == "prices":
        text = (run / "config.yaml").read_text().rpartition("# sha256: ")[0]
        (run / "config.yaml").write_text(text.replace(str(finished / "prices.csv"), str(tmp_path / "prices.csv")))
        config = run / "config.yaml"
    damage(run)
    if script in ("both", "backtest"):
        line = refused(capfd, tmp_path, "backtest", "--run", run, "--output", tmp_path / "again")
        assert all(needle in line for needle in needles), line
    if script in ("both", "train"):
        line = refused(capfd, tmp_path, "train", "--config", config, "--steps", 128, "--resume", "--output", run)
        assert all(needle in line for needle in needles), line


BACKTESTS = {
    "no run": ([], ["--run"]),
    "not a run folder": (["--run", "elsewhere"], ["elsewhere: not a run folder", "config.yaml"]),
    "an empty name": (["--run", ""], ["not a run folder"]),
    "prices that are not there": (["--data", "typo.csv"], ["typo.csv", "no such file"]),
    "too few bars": (["--data", "short.csv"], ["short.csv", "50 bars"]),
    "only bars that the run has learned from": (
        ["--data", "seen.csv"],
        ["seen.csv", "trained and selected on AAA, BBB"],
    ),
    "an output that is not empty": (["--output", "."], ["--output . is not empty"]),
    "another objective": (["--objective.kind", "cvar"], ["--objective.kind is", "expected", "cannot change"]),
    "a constraint more": (["--constraints", "[{turnover: {limit: 3}}]"], ["--constraints", "cannot change"]),
    "another network": (["--policy.widths", "3"], ["--policy.widths", "did you mean --policy.width?"]),
    "other rewards": (["--rewards", "[log_return]"], ["--rewards are not those of the run's training"]),
    "a limit without a level": (["--monitor", "[drawdown]"], ["monitor[0].drawdown.limit is missing"]),
    "costs out of range": (["--costs.impact", "-1"], ["--costs.impact is -1", "[0,"]),
    "sizing out of range": (
        ["--sizing", "[{volatility_target: {target: 0}}]"],
        ["--sizing", "sizing[0].volatility_target.target is 0"],
    ),
}


@pytest.mark.parametrize("case", BACKTESTS)
def test_backtests(case, finished, workplace, capfd, nothing_compiles):
    arguments, needles = BACKTESTS[case]
    write_prices(workplace / "short.csv", n_bars=50, symbols=("CCC", "DDD"))
    write_prices(workplace / "seen.csv", n_bars=50)
    run = [] if "--run" in arguments or case == "no run" else ["--run", finished / "run"]
    line = refused(capfd, workplace, "backtest", *run, *arguments)
    assert all(needle in line for needle in needles), line


def test_a_network_of_another_shape_is_refused(finished, workplace, capfd):
    line = refused(capfd, workplace, "backtest", "--run", finished / "run", "--policy.width", "32")
    assert "--policy.width is 32, but the run was trained with 16; an evaluation cannot change policy" in line


def test_help_is_not_an_error(capfd):
    with pytest.raises(SystemExit) as end:
        command("train", "--help")
    assert end.value.code == 0
    assert "--resume" in capfd.readouterr().out


def test_nothing_is_lost_when_a_resume_is_refused(finished):
    """The run that the refused resumes above were aimed at is complete."""
    summary = json.loads((finished / "run" / "summary.json").read_text())
    assert summary["train"]["env_steps"] == 384
