"""Own code of every kind in a run: built like what ships, and refused before anything is compiled where it is wrong."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import own_parts
import pytest
import yaml
from folders import ROOT
from tiny_run import merged, tiny_config

from jaxppo import masks, own_code, register
from jaxppo.backtest.agent_account import rules_of
from jaxppo.backtest.baselines import configured_baselines
from jaxppo.config import ConfigError, digest_tree, dump_config, load_config
from jaxppo.config.own import own_names
from jaxppo.envs import simulators
from jaxppo.envs.market.features import compute_features
from jaxppo.envs.market.own_columns import ColumnGroup
from jaxppo.masks import MaskTransform
from jaxppo.policy.protocol import Policy, Targets
from jaxppo.risk.rewards import RewardTransform
from jaxppo.risk.sizing import SizingTransform
from jaxppo.run.build import build
from jaxppo.run.own import own_policies
from jaxppo.testing import check_causal

GROUP = {"groups": ["price"], "normalisation_window": 20}
WHOLE = {
    "features": {
        **GROUP,
        "functions": {
            "slope": {
                "function": "own_parts:slope",
                "options": {"span": 3},
                "warmup": 3,
                "lag": 1,
                "normalise": "rank",
            },
            "pair": {"function": "own_parts:pair", "names": ["move", "range"], "normalise": "scale"},
        },
    },
    "masks": ["no_short", {"own_parts:calm_only": {"level": 0.02}}],
    "sizing": [{"own_parts:shrunk": {"factor": 0.25}}],
    "rewards": ["log_return", {"own_parts:cost_aversion": {"weight": 2.0}}],
}


@pytest.fixture(scope="module")
def market():
    return simulators.gbm(jax.random.key(3), 420, 2)


@pytest.fixture(scope="module")
def setup(market):
    return build(tiny_config(**WHOLE), market)


@pytest.fixture
def names(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(own_code, "_registered", {})


@pytest.mark.slow
def test_own_parts_are_built_with_their_options(setup):
    env = setup.env
    assert [part.name for part in env.masks.parts] == ["no_short", "own_parts.calm_only"]
    assert [part.name for part in env.rewards.parts] == ["log_return", "own_parts.cost_aversion"]
    (sizing,) = env.sizing.parts
    sizes, _ = sizing.apply((), (), None, jnp.asarray([1.0, -0.5]))
    np.testing.assert_allclose(sizes, [0.25, -0.125])
    assert env.features.names[-3:] == ("slope", "pair.move", "pair.range")
    assert env.masks.warmup == 5


def test_an_own_feature_is_the_column_of_its_values(market, setup):
    """The same numbers as a column of the prices, through the same lag, normalisation and clip."""
    close = np.asarray(market.close, np.float64)
    slope = np.full(close.shape, np.nan)
    slope[3:] = np.log(close[3:]) - np.log(close[:-3])
    pair = (market.close / market.open - 1.0, market.high / market.low - 1.0)
    given = {"slope": jnp.asarray(slope, jnp.float32), "move": pair[0], "range": pair[1]}
    groups = (ColumnGroup("s", ("slope",), 1, "rank"), ColumnGroup("p", ("move", "range"), 0, "scale"))
    columns = compute_features(
        market.replace(columns=given), groups=("price",), normalisation_window=20, columns=groups, unknown=np.nan
    )
    found = setup.env.features.table(market, np.nan)
    np.testing.assert_allclose(found[setup.env.first_decision :], columns[setup.env.first_decision :], atol=2e-5)
    assert np.isnan(found[:4, :, -3]).all(), "its warm-up and its lag"


def test_equal_names_and_options_are_one_group_so_that_it_compiles_once():
    one, again = (tiny_config(**WHOLE).features.function_groups for _ in range(2))
    assert one == again
    assert hash(one) == hash(again)
    other = {**WHOLE["features"], "functions": {"slope": {"function": "own_parts:slope", "options": {"span": 4}}}}
    assert tiny_config(**{**WHOLE, "features": other}).features.function_groups[0].function != one[0].function


def test_names_and_options_come_back_from_the_file_of_a_run(tmp_path):
    network = {"kind": "own_networks:Convolution", "options": {"size": 2}}
    config = tiny_config(**WHOLE, policy={"base": {"own_parts:half_equal": {"gross": 0.3}}, **network})
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path, saved=True) == config
    assert dict(own_names(config)) == {
        "features.functions.slope": "own_parts:slope",
        "features.functions.pair": "own_parts:pair",
        "masks[1]": "own_parts:calm_only",
        "sizing[0]": "own_parts:shrunk",
        "rewards[1]": "own_parts:cost_aversion",
        "policy.kind": "own_networks:Convolution",
        "policy.base": "own_parts:half_equal",
    }


def test_strategies_of_a_book_and_baselines_are_own_code_too(names, market):
    both = {
        "sizing": [{"book": {"strategies": ["agent", {"own_parts:half_equal": {"gross": 0.4}}]}}],
        "evaluation": {"baselines": ["buy_and_hold", {"own_parts:half_equal": {"gross": 0.3}}]},
    }
    config = tiny_config(features=GROUP, **both)
    found = own_policies(config)
    assert list(found) == [
        "sizing[0].book.strategies[1] own_parts:half_equal", "evaluation.baselines[1] own_parts:half_equal"
    ]  # fmt: skip
    assert list(own_policies(config, traded=True)) == list(found)[:1]
    setup = build(config, market)
    where = setup.periods["test"]
    ledgers = configured_baselines(setup, rules_of(setup), where)
    assert list(ledgers) == ["buy_and_hold", "own_parts:half_equal"]
    gross = np.abs(ledgers["own_parts:half_equal"].weights).sum(axis=1)
    np.testing.assert_allclose(gross[5:], 0.3, atol=0.05)
    register(masks.no_short, name="mine:it")
    for given, key in (
        ({"sizing": [{"book": {"strategies": ["agent", "mine:it"]}}]}, r"sizing\[0\].book: strategies\[1\]"),
        ({"evaluation": {"baselines": ["mine:it"]}}, r"evaluation.baselines\[0\]"),
    ):
        with pytest.raises(ConfigError, match=f"^{key} mine:it returns a Transform; a Policy is expected"):
            build(tiny_config(features=GROUP, **given), market)


def test_a_trial_with_other_code_is_another_trial(names):
    config = tiny_config(masks=["notebook:mask"])
    found = []
    for function in (masks.no_short, own_parts.calm_only, masks.no_short):
        register(function, name="notebook:mask")
        found.append(digest_tree(config))
    assert found[0] == found[2] != found[1]
    assert "own_code" not in digest_tree(tiny_config())


def test_the_templates_of_the_guide_work(tmp_path, market):
    """As a reader would: the code beside the configuration, the keys in it, the checks that it names."""
    page = (ROOT / "docs" / "how-to" / "own-code.md").read_text(encoding="utf-8")
    code, keys = (re.search(rf"```{kind}\n(.*?)```", page, re.S)[1] for kind in ("python", "yaml"))
    (tmp_path / "my_parts.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(merged(**yaml.safe_load(keys)), sort_keys=False))
    config = load_config(tmp_path / "mine.yaml")
    assert len(dict(own_names(config))) == 7
    setup = build(config, market)
    assert setup.env.features.names[-2:] == ("slope", "fast")
    exec(re.search(r"```python fragment\n(from jaxppo.testing.*?)```", page, re.S)[1])
    names = {"__name__": "more_parts"}
    exec(re.search(r"```python fragment\n([^`]*class Recurrent.*?)```", page, re.S)[1], names)
    check_causal(names["Recurrent"], kind="network")


FEATURES = {
    "leaks": (
        lambda market: market.close / market.close.mean(axis=0, keepdims=True),
        "looks ahead: at bar 0 its value of asset 0",
    ),
    "knows the last": (lambda market: market.close - market.close[-1:], "looks ahead: at bar 0"),
    "one asset": (lambda market: market.close[:, 0], r"float32\[420\]; .* \[T, A\] = \[420, 2\] are expected"),
    "numpy": (lambda market: jnp.asarray(np.asarray(market.close)), "it must be written in jax.numpy"),
    "fails": (lambda market: market.close / (1 // 0), r"ZeroDivisionError: .* \(line \d+ of test_own_checks.py\)"),
    "nothing known": (lambda market: market.close * jnp.nan, "has no number in the first 420 bars"),
    "text": (lambda market: "close", "TypeError: .*not a valid JAX array type"),
    "complex": (lambda market: market.close * 1j, "real numbers of shape"),
    "asserts": (lambda market: _false(), "AssertionError: of the user"),
}


def _false():
    raise AssertionError("of the user")


@pytest.mark.parametrize("name", FEATURES)
def test_a_wrong_feature_is_named(names, market, name):
    function, message = FEATURES[name]
    register(function, name="mine:it")
    with pytest.raises(ConfigError, match=f"^features.functions.f mine:it.*{message}") as raised:
        build(tiny_config(features={**GROUP, "functions": {"f": "mine:it"}}), market)
    assert "\n" not in str(raised.value)


def test_a_constant_is_no_mistake_and_what_replaces_it_is_tried_as_well(names, market):
    config = tiny_config(features={**GROUP, "functions": {"f": "mine:constant"}})
    register(lambda market: jnp.ones(market.close.shape), name="mine:constant")
    assert build(config, market)
    register(lambda market: market.close - market.close[-1:], name="mine:constant")
    with pytest.raises(ConfigError, match="looks ahead: at bar 0"):
        build(config, market)


def _box(table, limits=lambda most: masks.box_limits(-most, most)):
    return lambda: masks.market_only("box", table, limits)


def _counting():
    none = masks.no_short().apply
    return MaskTransform("counts", lambda state, row, portfolio: (none((), jnp.ones(2), portfolio)[0], (state, 1)))


def _targets(weights):
    def apply(params, state, observed):
        return Targets(weights(observed), jnp.zeros(2, bool)), state

    return lambda: Policy("mine", apply)


TRANSFORMS = {
    "masks": {
        "a number": (lambda: 3, "returns an int; a Transform is expected"),
        "leaks": (_box(lambda view: jnp.abs(view.market.close[::-1])), "looks ahead: at bar 0"),
        "not a number": (_box(lambda view: view.market.close * jnp.nan), r"it limits asset 0 to \[nan, nan\]"),
        "forces": (_box(lambda view: view.market.close, lambda x: masks.box_limits(x, x)), "range must contain 0"),
        "one asset": (_box(lambda view: view.market.close[:, :1]), r"low of its limits is float32\[1\]; \[A\] = \[2\]"),
        "one bar": (_box(lambda view: view.market.close[0]), r"table has the shape \[2\]; a leading axis of T bars"),
        "no limits": (_box(lambda view: view.market.close, lambda x: x), "returns an array; jaxppo.masks.Limits are"),
        "state": (_counting, "a state of int32.*, but init one of nothing"),
        "no column": (
            _box(lambda view: view.market.columns["news"]),
            "a column of your own is read, and the market has none; name it in data.columns",
        ),
        "raises": (lambda: [][1], r"IndexError: list index out of range \(line"),
    },
    "sizing": {
        "a sum": (lambda: SizingTransform("x", lambda s, r, p, x: (x.sum(), s)), r"float32\[\]; \[A\] = \[2\] numbers"),
        "not a number": (lambda: SizingTransform("x", lambda s, r, p, x: (x * jnp.nan, s)), "size of asset 0 is nan"),
        "no pair": (
            lambda: SizingTransform("x", lambda s, r, p, x: x),
            "returns an array; a pair of value and state",
        ),
        "a mask": (masks.no_short, "TypeError: .* takes 3 positional arguments but 4 were given"),
    },
    "rewards": {
        "plain": (
            lambda reward, outcome: reward,
            "needs the option reward, .*; a reward is a function of options that returns a jaxppo.risk.rewards.Reward",
        ),
        "two": (lambda: RewardTransform("x", lambda s, x, o: (jnp.ones(2), s)), r"float32\[2\]; a number is expected"),
        "infinite": (lambda: RewardTransform("x", lambda s, x, o: (jnp.log(x), s)), "nothing happened is -inf"),
        "init of nothing": (
            lambda: RewardTransform("x", lambda s, x, o: (x, s), init=lambda: jnp.zeros(())),
            "TypeError: .*takes 0 positional arguments but 1 was given",
        ),
        "replaces": (
            lambda: RewardTransform("x", lambda s, x, o: (x, s), replaces=True),
            "own reward: .*mine.it replaces the reward and must come first, not after log_return",
        ),
    },
    "policy.base": {
        "leaks": (
            lambda: Policy("x", _targets(lambda o: o.row)().apply, table=lambda _, view: view.market.close[::-1]),
            "looks ahead: at bar 0",
        ),
        "one weight": (
            _targets(lambda observed: jnp.ones(1)),
            r"weights of its targets is float32\[1\]; \[A\] = \[2\]",
        ),
        "not a number": (_targets(lambda observed: jnp.full(2, jnp.nan)), "its size of asset 0 is nan"),
        "a mask": (masks.no_short, "returns a Transform; a Policy is expected"),
    },
}


def test_a_reward_may_have_a_memory_of_each_asset(names, market):
    def apply(state, reward, outcome):
        return reward - 0.1 * state.sum(), 0.9 * state + outcome.net

    register(lambda: RewardTransform("x", apply, init=lambda n_assets: jnp.zeros(n_assets)), name="mine:it")
    env = build(tiny_config(features=GROUP, rewards=["log_return", "mine:it"]), market).env
    assert [np.shape(state) for state in jax.tree.leaves(env.rewards_start())] == [(2,)]


CASES = [(key, name) for key, cases in TRANSFORMS.items() for name in cases]


@pytest.mark.parametrize(("key", "name"), CASES, ids=map(str, CASES))
def test_a_wrong_transform_is_named(names, market, key, name):
    make, message = TRANSFORMS[key][name]
    register(make, name="mine:it")
    given = {
        "policy.base": {"policy": {"base": "mine:it"}, "env": {"actions": "continuous", "levels": [-1.0, 1.0]}},
        "rewards": {"rewards": ["log_return", "mine:it"]},
    }.get(key, {key: ["mine:it"]})
    at = {"policy.base": "policy.base mine:it", "rewards": r"rewards\[1\] mine:it"}.get(key, rf"{key}\[0\] mine:it")
    at, message = ("", message.partition(": ")[2]) if message.startswith("own reward") else (f"^{at}.*", message)
    with pytest.raises(ConfigError, match=f"{at}{message}") as raised:
        build(tiny_config(features=GROUP, **given), market)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("Centred", "policy.kind own_networks:Centred looks ahead: a memory up to bar"),
        ("FromTheStart", "policy.kind own_networks:FromTheStart: memory 1 of a chunk differs by"),
        ("OfAllPaths", "policy.kind own_networks:OfAllPaths: the memories of a path change as another one does"),
        ("LongChunks", "policy.kind own_networks:LongChunks looks ahead: a memory up to bar"),
    ],
)
def test_a_network_that_reads_other_bars_is_refused(market, network, message):
    """On chunks as long as those of the configuration."""
    config = tiny_config(features=GROUP, ppo={"chunk": 16}, policy={"kind": f"own_networks:{network}"})
    with pytest.raises(ConfigError, match=f"^{message}"):
        build(config, market)


def test_options_need_a_network_of_ones_own():
    with pytest.raises(ConfigError, match=r"policy.options are of an own function, but policy.kind is mlp"):
        tiny_config(policy={"options": {"size": 2}})


def test_a_reward_that_replaces_needs_no_risk_aversion(names, market):
    register(lambda: RewardTransform("x", lambda s, x, o: (o.log_growth, s), replaces=True), name="mine:it")
    with pytest.raises(ConfigError, match=r"env.risk_aversion is 2, but rewards\[0\] mine:it replaces the reward"):
        build(tiny_config(features=GROUP, rewards=["mine:it"], env={"risk_aversion": 2.0}), market)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"masks": ["1a:b"]}, r'masks\[0\] is "1a:b"; allowed: module:function'),
        ({"masks": [{"a:b": 3}]}, r"masks\[0\] is 3; allowed: mapping of names to a value"),
        ({"masks": ["a:b", {"a:b": {"x": 1}}]}, r"masks\[1\] names a:b, which masks\[0\] has"),
        ({"masks": ["no_shrt"]}, "did you mean no_short"),
        ({"masks": ["nothing_like_it"]}, "known: .*no_short, module:function"),
        ({"sizing": [{"volatility_target": {"target": 0.1}}, "a:b", "kelly"]}, r"sizing\[2\].kelly comes after vol"),
        ({"monitor": ["a:b"]}, r"unknown key 'monitor\[0\].a:b'"),
        ({"policy": {"base": "a b:c"}}, 'policy.base is "a b:c"; allowed: module:function'),
        (
            {"features": {"functions": {"price": "a:b"}}},
            "features.functions names a group price, and so does features.g",
        ),
        (
            {"features": {"functions": {"s": {"fun": "a:b"}}}},
            "features.functions.s: unknown key 'fun'; allowed: function",
        ),
        (
            {"features": {"functions": {"s": {"function": "a"}}}},
            'functions.s.function is "a"; allowed: module:function',
        ),
        ({"features": {"functions": {"s": {"function": "a:b", "names": ["x", "x"]}}}}, "must name each feature once"),
    ],
)
def test_names_in_the_configuration_are_checked(given, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(**given)
