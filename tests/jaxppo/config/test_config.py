"""The configuration: what is read, how options change it, and that it survives being written."""

import inspect
import json
import re

import hypothesis.strategies as st
import pydantic
import pytest
from hypothesis import given, settings
from tiny_run import ROOT

from jaxppo.config import Config, dump_config, load_config, validate_config
from jaxppo.config import reference as config_reference
from jaxppo.config.risk import UTILITIES
from jaxppo.config.types import accepted, keys
from jaxppo.envs import load_market, make_costs, make_exits, make_limit_orders
from jaxppo.envs.market.regimes import rule_regimes
from jaxppo.errors import ConfigError

BUDGET = "training: {steps: 1000}\n"


@pytest.fixture
def read(tmp_path):
    """Reads YAML text with options."""

    def read(text="", *options):
        path = tmp_path / "run.yaml"
        path.write_text(BUDGET + text, encoding="utf-8")
        return load_config(path, options)

    return read


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path):
    assert isinstance(load_config(path), Config)


def test_a_dict_is_read_like_a_file_and_nothing_is_the_defaults(read):
    tree = {"training": {"steps": 1000}, "masks": ["no_short", {"halt": {"move": 0.1}}], "ppo": None}
    config = load_config(tree, ["--ppo.gamma", "0.9", "--training.minutes", "2"])
    assert config == read("masks: [no_short, {halt: {move: 0.1}}]", "--ppo.gamma", "0.9", "--training.minutes", "2")
    assert tree == {"training": {"steps": 1000}, "masks": ["no_short", {"halt": {"move": 0.1}}], "ppo": None}
    assert load_config() == Config(training={"steps": 1_000_000})
    assert load_config(overrides=["--training.steps", "7"]) == Config(training={"steps": 7})
    assert load_config(None, ("--training.episodes=3", "--seed=1")).training.episodes == 3
    for wrong, needle in (
        ({"training": {"steps": 1}, "ppo": {"gama": 1}}, r"config: unknown key 'ppo.gama'; did you mean ppo.gamma"),
        ({"training": {"steps": 1}, "data": {"path": object()}}, "only numbers, text, lists"),
        ({}, "set exactly one of training.steps"),
    ):
        with pytest.raises(ConfigError, match=needle):
            load_config(wrong)


def test_missing_keys_have_their_defaults(read):
    assert read() == Config(training={"steps": 1000})
    assert read("ppo:\ncosts: {}") == read(), "an empty section is a section of defaults"


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), (".5", 0.5), ("1_0.5", 10.5), ("2", 2.0), ("+3.", 3.0), ("0.1e+1", 1.0)],
)
def test_numbers_are_numbers(read, written, value):
    assert read(f"ppo: {{reward_scale: {written}}}").ppo.reward_scale == value
    assert read("", "--ppo.reward-scale", written).ppo.reward_scale == value


def test_whole_budgets_may_be_written_with_an_exponent(read):
    assert read("", "--training.steps", "2e6").training.steps == 2_000_000


def test_words_that_yaml_1_1_takes_for_something_else_are_symbols(read):
    text = "data: {symbols: [ON, NO, Y, OFF, 0700, 12:30, 2010-12-31]}"
    assert read(text).data.symbols == ("ON", "NO", "Y", "OFF", "0700", "12:30", "2010-12-31")


def test_options_in_every_spelling(read):
    for options in (("--ppo.learning-rate", "1e-3"), ("--ppo.learning_rate=1e-3",)):
        assert read("ppo: {learning_rate: 1.0}", *options).ppo.learning_rate == 1e-3
    assert read("", "--data.symbols", "AAPL,ON").data.symbols == ("AAPL", "ON")
    assert read("", "--data.symbols", "AAPL").data.symbols == ("AAPL",)
    assert read("", "--data.symbols", "[AAPL, ON]").data.symbols == ("AAPL", "ON")
    assert read("", "--env.levels", "-1,0,1").env.levels == (-1.0, 0.0, 1.0)
    assert read("", "--data.path", "2010").data.path == "2010"
    assert read("", "--data.path", "a.csv,b.csv").data.path == "a.csv,b.csv"
    assert read("", "--data.path", "[a.csv, b.csv]").data.path == ("a.csv", "b.csv")
    assert (
        read("costs: {participation_limit: 0.5}", "--costs.participation-limit", "null").costs.participation_limit
        is None
    )
    assert read("", "--seed", "1", "--seed", "2").seed == 2
    dates = ("--data.train", "2001-01-01,2002-01-01", "--data.validation", "2003-01-01,2003-02-01")
    assert read("", *dates, "--data.test", "2004-01-01,2005-01-01").data.train == ("2001-01-01", "2002-01-01")


def test_a_budget_given_as_an_option_replaces_that_of_the_file(read):
    training = read("", "--training.minutes", "1.5").training
    assert (training.steps, training.episodes, training.minutes) == (None, None, 1.5)
    with pytest.raises(ConfigError, match="only one budget"):
        read("", "--training.minutes", "1", "--training.steps", "10")


def test_a_configuration_cannot_be_changed(read):
    with pytest.raises(pydantic.ValidationError):
        read().ppo.paths = 3


@settings(max_examples=60, deadline=None)
@given(
    path=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12),
    symbols=st.lists(st.sampled_from(["ON", "1e5", "007", "~", "null", "2010-01-01", "é", "a: b", "", " x", "#", "\n"]),
                     min_size=1, max_size=4),
    rate=st.floats(1e-8, 1.0),
    steps=st.integers(1, 10**15),
    seed=st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_what_is_written_reads_back_the_same(tmp_path_factory, path, symbols, rate, steps, seed):
    data = {"path": path, "symbols": [symbol or "x" for symbol in symbols]}
    tree = {"seed": seed, "data": data, "ppo": {"learning_rate": rate}, "training": {"steps": steps}}
    config = validate_config(tree)
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(file) == config


def test_the_reference_page_is_up_to_date():
    page = (ROOT / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    assert page == config_reference.reference(), f"regenerate it: {config_reference.COMMAND}"
    assert config_reference.COMMAND in page
    assert "`ppo.gae_lambda` | number in [0, 1] | `0.95` |" in page


def test_every_key_says_what_it_means_and_what_it_accepts():
    for key, field in keys():
        assert field.description, key
        assert field.description.endswith("."), key
        assert accepted(field), key


def test_every_key_is_read_by_something():
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "jaxppo").rglob("*.py")
        if "config" not in path.relative_to(ROOT).parts
    )
    passed_on = {
        "data": set(inspect.signature(load_market).parameters),
        "costs": set(inspect.signature(make_costs).parameters),
        "exits": set(inspect.signature(make_exits).parameters),
        "limit_orders": set(inspect.signature(make_limit_orders).parameters),
        "env": {"units"},  # becomes a transform of sizing
        "regimes": set(inspect.signature(rule_regimes).parameters),
        "objective": {name for utility in UTILITIES.values() for name in inspect.signature(utility).parameters},
    }
    for key, _ in keys():
        section, _, name = key.rpartition(".")
        read = re.search(rf"\b(?:{section or 'config'}|config|cadence)\.{name}\b", source)
        assert name in passed_on.get(section, ()) or read, f"nothing reads {key}"


def test_runs_of_earlier_versions_open_and_new_configurations_learn_the_new_name(tmp_path):
    path = tmp_path / "config.yaml"
    kelly = {"kelly": {"window": 60, "shrink_mean": False, "shrink_covariance": True}}
    text = {"training": {"steps": 1000}, "walk_forward": {"agents_at_once": 4}, "sizing": [kelly]}
    path.write_text(json.dumps(text))
    opened = load_config(path, saved=True)
    assert opened.walk_forward.batch_size == 4
    assert opened.walk_forward.combine == "best", "seeds were chosen by validation"
    assert load_config({"training": {"steps": 1000}}).walk_forward.combine == "mean"
    assert opened.sizing[0].values.shrink == "covariance"
    with pytest.raises(ConfigError, match=r"agents_at_once'; it is walk_forward.batch_size now"):
        load_config({"training": {"steps": 1000}, "walk_forward": {"agents_at_once": 4}})
    with pytest.raises(ConfigError, match=r"agents-at-once; it is --walk_forward.batch_size now"):
        load_config(path, ["--walk_forward.agents-at-once", "2"], saved=True)


@pytest.mark.parametrize("option", ["--ppo.clip=", "--costs.participation_limit= ", "--env.drawdown_limit="])
def test_an_option_without_a_value_is_refused(option):
    """As of an unset variable of a shell, `--ppo.clip=$UNSET`; null has to be written."""
    with pytest.raises(ConfigError, match=f"{option.partition('=')[0]} has no value; write "):
        load_config(overrides=[option])
    assert load_config(overrides=["--ppo.clip=null"]).ppo.clip is None


@pytest.mark.parametrize("text", ["000001,600519", "TRUE,1E5", "NULL", "0700.HK, 5"])
def test_symbols_stay_what_they_were_written_as(text):
    found = load_config(overrides=["--data.symbols", text]).data.symbols
    assert found == (None if text == "null" else tuple(part.strip() for part in text.split(",")))
    assert load_config(overrides=["--data.symbols", '["000001", B]']).data.symbols == ("000001", "B")
    assert load_config(overrides=["--data.symbols", "null"]).data.symbols is None


def test_aliases_that_expand_without_end_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="has more than 20 aliases"):
        load_config(path)
    path.write_text("a: &costs {commission_bps: 2.0}\ncosts: *costs\n")
    with pytest.raises(ConfigError, match="unknown key 'a'"):
        load_config(path)
