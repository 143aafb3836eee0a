"""Own code that is given in Python: the configuration that stands for it, and what is said where it cannot be used."""

import functools

import own_networks
import own_parts
import pytest
from tiny_run import prices, tiny_config

import jaxppo
from jaxppo import envs, own_code
from jaxppo.config import ConfigError, validate_config, with_own
from jaxppo.config.own import own_names


@pytest.fixture(autouse=True)
def names(monkeypatch):
    monkeypatch.setattr(own_code, "_registered", {})


def test_functions_stand_for_their_names():
    config = tiny_config(masks=["no_short"], rewards=["log_return"])
    given = with_own(
        config,
        features={"slope": own_parts.slope, "pair": {"function": own_parts.pair, "names": ["move", "range"]}},
        masks=[{own_parts.calm_only: {"level": 0.02}}, {"halt": {"move": 0.1}}],
        rewards=[own_parts.cost_aversion],
        sizing=["own_parts:shrunk"],
        base={own_parts.half_equal: {"gross": 0.3}},
        policy={own_networks.Convolution: {"size": 2}},
    )
    tree = config.model_dump(mode="json")
    tree["features"]["functions"] = {
        "slope": "own_parts:slope",
        "pair": {"function": "own_parts:pair", "names": ["move", "range"]},
    }
    tree["masks"] += [{"own_parts:calm_only": {"level": 0.02}}, {"halt": {"move": 0.1}}]
    tree["rewards"] += ["own_parts:cost_aversion"]
    tree["sizing"] = ["own_parts:shrunk"]
    tree["policy"]["base"] = {"own_parts:half_equal": {"gross": 0.3}}
    tree["policy"] |= {"kind": "own_networks:Convolution", "options": {"size": 2}}
    assert given == validate_config(tree)
    assert with_own(config) is config
    assert not own_code._registered, "modules have them"


def test_what_no_module_has_is_registered_and_may_be_given_again():
    def make(span):
        def inner(market):
            return market.close * span

        return inner

    one, other = make(1), make(2)
    config = with_own(tiny_config(), features={"f": one})
    assert dict(own_names(config)) == {"features.functions.f": f"{__name__}:inner"}
    (group,) = config.features.function_groups
    assert group.function.function is one
    assert with_own(tiny_config(), features={"f": other}) == config, "as a cell of a notebook that is run again"
    (group,) = config.features.function_groups
    assert group.function.function is other
    with pytest.raises(ConfigError, match=r"features.g: two functions are called .*:inner; give one another name"):
        with_own(tiny_config(), features={"f": one, "g": other})
    jaxppo.register(one, name="mine:one")
    assert len(dict(own_names(with_own(tiny_config(), features={"f": one, "g": other})))) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"masks": [3]}, r"masks\[0\] is 3; a function with a name \(def\) is expected"),
        ({"masks": [lambda: 3]}, r"masks\[0\] is <function <lambda> .*; a function with a name"),
        ({"rewards": [functools.partial(own_parts.cost_aversion)]}, "rewards.*; a function with a name"),
        ({"masks": own_parts.calm_only}, "masks is <function calm_only .*; a list of functions, names or mappings"),
        ({"masks": "no_short"}, "masks is 'no_short'; a list of functions"),
        ({"features": [own_parts.slope]}, "features is .*; a mapping of names to functions is expected"),
        ({"features": {"price": own_parts.slope}}, "features.functions names a group price"),
        ({"features": {"f": {"names": ["a"]}}}, "features.f is None; a function with a name"),
        ({"features": {"f": own_parts.leak}}, "features.functions.f own_parts:leak looks ahead: at bar 0"),
        ({"policy": own_networks.Centred}, "policy.kind own_networks:Centred looks ahead: a memory up to bar"),
        ({"policy": {}}, "policy is {}; one function, or one with its options, is expected"),
        ({"base": own_parts.slope}, "policy.base own_parts:slope needs the option market"),
    ],
)
def test_parts_that_cannot_be_used_are_named_before_anything_is_compiled(tmp_path, given, message):
    market = envs.load_market(prices())
    with pytest.raises(ConfigError, match=message):
        jaxppo.train(tiny_config(), output=tmp_path / "run", market=market, **given)
    assert not (tmp_path / "run").exists()


def test_an_unknown_part_is_a_mistake_of_the_call():
    with pytest.raises(TypeError, match="'network' is no part; features, masks, rewards, sizing, base, policy are"):
        jaxppo.train(tiny_config(), network=3)
