"""What a run says of volumes: in the data report with the size of its own account, and in what it warns of."""

import types

import numpy as np
import pytest
from folders import ROOT
from tiny_run import command

from jaxppo import envs
from jaxppo.backtest.evaluation import _warnings
from jaxppo.config import digest_tree, load_config
from jaxppo.errors import ConfigError
from jaxppo.run.data import full_position, given_data, load_data

TIMES = np.datetime64("2021-01-04") + np.arange(60)
ROWS = "".join(f"{day},1.1,1.11,1.09,1.1,{50_000 + 10 * i}\n" for i, day in enumerate(TIMES))


@pytest.fixture
def prices(tmp_path):
    path = tmp_path / "EURUSD.csv"
    path.write_text("date,open,high,low,close,volume\n" + ROWS)
    return path


def config_of(path, *overrides):
    return load_config(overrides=["--data.path", str(path), *overrides])


def questions(market):
    return [line for line in market.info.report["warnings"] if "full position" in line]


def test_the_full_position_is_that_of_the_account():
    small = load_config(overrides=["--env.initial_cash", "5000", "--costs.max_leverage", "2"])
    assert full_position(small, 4) == 1250.0
    levered = load_config(overrides=["--env.position_limit", "1.5", "--costs.max_leverage", "1.2"])
    assert full_position(levered, 4) == pytest.approx(1.2e6)


def test_the_data_report_knows_the_size_of_the_account(prices):
    market = load_data(config_of(prices))
    (line,) = questions(market)
    assert "a full position of 1,000,000 in EURUSD would take 181 bars to fill at 10 %" in line
    assert f"look at: {line}" in envs.format_report(market.info.report)
    assert not questions(load_data(config_of(prices, "--env.initial_cash", "5000")))
    assert "at 100 % of" in questions(load_data(config_of(prices, "--costs.participation_limit", "null")))[0]
    for unit in ("shares", "notional", "ticks", "none"):
        assert not questions(load_data(config_of(prices, "--data.volume", unit)))


def test_a_market_given_in_python_is_asked_the_same(prices):
    market, config = envs.load_market(prices), config_of(prices)
    once = given_data(config, market)
    assert questions(once) == questions(load_data(config))
    assert len(questions(given_data(config, once))) == 1
    assert not questions(market), "the market that was given is left as it is"
    silent = envs.load_market(prices, volume="ticks")
    assert given_data(config, silent) is silent


def test_results_begin_with_what_is_doubtful():
    sentence = "No usable volume of EURUSD: no participation limit and no market impact applies there."
    setup = types.SimpleNamespace(env=types.SimpleNamespace(fill_rule=envs.FillRule()))
    result = types.SimpleNamespace(
        ledgers={"agent": types.SimpleNamespace(liquidated=False)}, summary={"n_bars": 10, "notes": [sentence]}
    )
    assert _warnings(setup, result, None) == (sentence,)


def test_mistakes_are_named():
    with pytest.raises(
        ConfigError, match=r'data\.volume is "lots"; allowed: one of shares, notional, ticks, none or null'
    ):
        load_config(overrides=["--data.volume", "lots"])
    with pytest.raises(ConfigError, match=r"data\.rate_column is .*; allowed: non-empty text or list of 2"):
        load_config(overrides=["--data.rate_column", "[a, b, c]"])
    assert load_config(overrides=["--data.rate_column", "[a, b]"]).data.rate_column == ("a", "b")
    assert load_config(overrides=["--data.volume", "none"]).data.volume == "none"
    assert load_config(overrides=["--data.volume", "null"]).data.volume is None


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("--data.volume", "lots"), '--data.volume is "lots"; allowed: one of shares, notional, ticks, none or null'),
        (("--data.rate_column", "fx"), "EURUSD.csv: --data.rate_column fx is no column of it; found date, open"),
        (("--data.funding", "rate"), "EURUSD.csv: --data.funding rate is no column of it; found date, open"),
        (("--data.dividends", "high"), "EURUSD.csv: EURUSD, line 3 (2021-01-05): --data.dividends high is 1.11, and"),
        (
            ("--data.dividends", "low", "--env.fill_price", "decision_close"),
            "env.fill_price is decision_close, but funding",
        ),
        (("--data.splits", "open", "--costs.lot_size", "1"), "costs.lot_size counts shares of today, and data.splits"),
    ],
)
def test_the_command_ends_in_one_line(prices, capsys, given, line):
    config = ROOT / "configs" / "quickstart.yaml"
    assert command("train", "--config", config, "--data.path", prices, *given) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {line}")
    assert printed.count("\n") == 1


def test_keys_that_nobody_sets_change_no_older_digest():
    """Jobs and trials are recognised by digests of the configuration, in which these keys once were absent."""
    older = ["--data.spread", "edge", "--walk_forward.combine", "best"]  # what runs without these keys did
    tree = load_config(overrides=older).model_dump(mode="json")
    keys = {
        "data.spread": None,
        "data.half_spread": "1e-4",
        "data.tick": "0.01",
        "data.multiplier": "{ES: 50}",
        "data.futures": "[ES]",
        "data.funding": "rate",
        "data.dividends": "paid",
        "data.splits": "ratio",
        "data.start": "2020-01-01",
        "data.end": "2021-01-01",
        "data.refresh": "true",
        "costs.cash_rate": "0.02",
        "costs.margin_volatility": "5",
        "costs.initial_margins": "{ES: 0.1}",
        "costs.maintenance_margins": "0.05",
        "costs.lot_size": "1",
        "costs.minimum_notional": "100",
        "exits.stop_loss": "0.05",
        "exits.take_profit": "{AAA: 0.1}",
        "exits.trailing_stop": "0.05",
        "exits.wait": "3",
        "limit_orders.offset": "0.003",
        "costs.function": "own_parts:of_range",
        "data.volume": "shares",
        "data.rate_column": "fx",
        "data.stablecoins_at_par": "true",
        "features.normalise": "{price: scale}",
        "features.timeframes": "[1w]",
        "features.columns": "{news: [sentiment]}",
        "features.functions": "{pair: own_parts:pair}",
        "data.columns": "[sentiment]",
        "walk_forward.combine": None,
        "evaluation.baselines": "[trend]",
        "evaluation.ship": "base_unless",
        "evaluation.ship_t": "2.0",
        "policy.base": "buy_and_hold",
        "policy.start": "feature_portfolios",
        "env.units": "risk",
        "ppo.encoder_epochs": "2",
    }
    for key in (
        *keys,
        "evaluation.shrink",
        "policy.tilt",
        "training.learner",
        "objective.options",
        "policy.options",
        "regimes.options",
        "costs.options",
        "limit_orders.touch",
    ):
        section, _, name = key.partition(".")
        tree[section].pop(name)
    del tree["pathwise"], tree["exits"], tree["limit_orders"], tree["sweep"], tree["tracking"]
    assert digest_tree(load_config(overrides=older)) == tree
    for window, kept in ((None, False), (30, True)):
        control = {"limit": 0.1, "move": 0.05} | ({"window": window} if window else {})
        (item,) = digest_tree(load_config(overrides=["--sizing", f"[{{drawdown_control: {control}}}]"]))["sizing"]
        assert ("window" in item["drawdown_control"]) is kept
    for key, value in keys.items():
        section, _, name = key.partition(".")
        with_it = ["--env.actions", "continuous"] if name == "start" else []
        changed = digest_tree(load_config(overrides=[*older, *with_it, f"--{key}", value] if value else []))
        assert changed[section].keys() - tree.get(section, {}).keys() == {name}
