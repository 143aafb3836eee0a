"""Every option that Python and YAML share has one name, one default, one range and one text."""

import inspect
import re

import jax
import numpy as np
import pytest
from pydantic import BaseModel

from jaxppo import envs, masks
from jaxppo.arguments import argument_types, describe, is_code_only
from jaxppo.book import AllocationRule
from jaxppo.config import Config, ConfigError, load_config, reference
from jaxppo.config.book import StrategyConfig
from jaxppo.config.evaluation import BASELINE_RULES, BaselineConfig
from jaxppo.config.from_signature import texts
from jaxppo.config.items import OWN
from jaxppo.config.types import accepted, lists
from jaxppo.envs import simulators
from jaxppo.envs.market import regimes
from jaxppo.policy import rules
from jaxppo.risk import constraints, monitor, objectives, rewards, sizing
from jaxppo.risk.lagrangian import Gains
from jaxppo.risk.shaping import PenalisedConstraint, shape_rewards

TradingEnv, make_params = envs.TradingEnv, envs.TradingEnv.make_params
LISTS = {"masks": masks, "sizing": sizing, "rewards": rewards, "monitor": monitor, "constraints": constraints}
SECTIONS = {name: field.annotation for name, field in Config.model_fields.items()}
BOOK = lists()["sizing"].kinds()["book"]

YAML_ONLY = {
    "masks.regime": {"bull", "bear", "sideways", "crisis"},
    "data": {"path", "train", "validation", "test", "purge_bars"},
    "features": {"columns", "functions"},
    "regimes": {"kind", "options", "scope", "model"},
    "env": {"name", "episode_chunks", "units"},
    "costs": {"function", "options"},
    "objective": {"kind", "options"},
    "book": {"strategies"},
    **{f"strategies.{kind}": {"name"} for kind in StrategyConfig.kinds()},
    **{f"baselines.{kind}": {"name"} for kind in BASELINE_RULES},
    **{f"constraints.{kind}": {"method"} for kind in lists()["constraints"].kinds()},
}
"""Keys that choose between arguments, or that only a run has."""
PYTHON_ONLY = {
    "masks.regime": {"sides"},
    "data": {"path_or_frame"},
    "regimes": {"market", "key"},
    "env": {"n_assets", "observation", "window", "fill_rule", "groups", "normalisation_window", "normalise", "masks",
            "sizing", "rewards", "self", "market", "costs", "episode_bars", "first_bar", "last_bar", "feature_dtype",
            "regimes", "displacement", "exits", "limit_orders", "periods"},
    "features": {"market", "unknown", "regimes"},
    "objective": {"utility", "constraints"},
    **{f"constraints.{kind}": {"constraint", "gains"} for kind in lists()["constraints"].kinds()},
}  # fmt: skip
"""Arguments that only code sets, of factories that do not mark them."""
OTHER_FORM = {"masks.risk_budget.groups", "masks.session.calendar", "objective.outcome"}
"""Keys that YAML writes otherwise: a mapping for a tuple, a default from elsewhere in the configuration."""

NOT_EMPTY = {"data.symbols", "data.futures", "data.columns", "data.calendar", "data.timezone"}
"""Texts that Python refuses to be empty once it reads the data."""


def sources():
    """Place in a configuration -> its model, and the factories whose arguments are its keys."""
    found = {}
    for name, module in LISTS.items():
        for kind, model in lists()[name].kinds().items():
            if kind not in ("book", OWN):
                more = (Gains, PenalisedConstraint) if name == "constraints" else ()
                found[f"{name}.{kind}"] = model, (getattr(module, kind), *more)
    utilities = (objectives.cvar, objectives.mean_variance, objectives.exponential)
    found["objective"] = SECTIONS["objective"], (*utilities, shape_rewards)
    found["data"] = SECTIONS["data"], (envs.load_market,)
    found["features"] = SECTIONS["features"], (envs.features.compute_features,)
    found["regimes"] = SECTIONS["regimes"], (regimes.rule_regimes, regimes.fit_regimes)
    found["env"] = SECTIONS["env"], (TradingEnv, make_params, envs.FillRule)
    found["costs"] = SECTIONS["costs"], (envs.make_costs,)
    found["exits"] = SECTIONS["exits"], (envs.make_exits,)
    found["limit_orders"] = SECTIONS["limit_orders"], (envs.make_limit_orders,)
    found["book"] = BOOK, (AllocationRule,)
    for kind, model in StrategyConfig.kinds().items():
        if kind not in ("agent", "run", OWN):
            found[f"strategies.{kind}"] = model, (getattr(rules, kind),)
    for kind in BASELINE_RULES:
        found[f"baselines.{kind}"] = BaselineConfig.kinds()[kind], (getattr(rules, kind),)
    return found


def arguments(place, factory):
    """Key -> argument of a factory, without those that code alone sets."""
    types = argument_types(factory)
    return {
        name: parameter
        for name, parameter in inspect.signature(factory).parameters.items()
        if not is_code_only(types.get(name)) and name not in PYTHON_ONLY.get(place, ())
    }


PAIRS = {
    (f"{place}.{key}", factory.__name__): (model.model_fields.get(key), factory, parameter)
    for place, (model, factories) in sources().items()
    for factory in factories
    for key, parameter in arguments(place, factory).items()
}


@pytest.mark.parametrize("place", sources())
def test_the_names_are_the_same(place):
    model, factories = sources()[place]
    in_python = {key for factory in factories for key in arguments(place, factory)}
    assert set(model.model_fields) - YAML_ONLY.get(place, set()) == in_python


def test_every_list_and_every_section_with_a_factory_is_compared():
    assert {name for name, model in SECTIONS.items() if isinstance(model, type) and issubclass(model, BaseModel)} == {
        *("data", "features", "regimes", "env", "costs", "exits", "limit_orders", "objective"),
        *(
            "simulation",
            "policy",
            "ppo",
            "pathwise",
            "training",
            "evaluation",
            "walk_forward",
            "sweep",
            "tracking",
        ),  # no factory takes their keys
    }
    assert set(lists()) == set(LISTS)


def test_the_defaults_are_the_same():
    for (key, name), (field, _, parameter) in PAIRS.items():
        assert key in OTHER_FORM or _same_default(field, parameter), (key, name)


def _same_default(field, parameter):
    if parameter.default is inspect.Parameter.empty:
        return field.is_required()
    as_list = [list(x) if isinstance(x, tuple) else x for x in (field.default, parameter.default)]
    return not field.is_required() and as_list[0] == as_list[1]


def test_the_texts_are_the_same():
    for (key, name), (field, factory, parameter) in PAIRS.items():
        if key in OTHER_FORM or name == "exponential":
            continue
        text = texts(factory)[parameter.name]
        assert field.description.endswith(text[1:]), (key, name)
        assert field.description.endswith("."), key


def test_the_ranges_are_the_same():
    for (key, name), (field, factory, parameter) in PAIRS.items():
        if key not in OTHER_FORM and key not in NOT_EMPTY:
            assert accepted(field) == describe(argument_types(factory)[parameter.name]), (key, name)


def test_python_refuses_what_is_outside_the_range_of_an_argument():
    """What YAML refuses by the type of a key, Python refuses by the annotation of the argument."""
    market = simulators.gbm(jax.random.key(0), 200, 1)
    small = TradingEnv(groups=("price",), window=2, normalisation_window=10)
    first = {
        make_params: lambda **given: small.make_params(market, **given),
        envs.load_market: lambda **given: envs.load_market("us5_1d", **given),
        envs.features.compute_features: lambda **given: envs.features.compute_features(market, **given),
        regimes.rule_regimes: lambda **given: regimes.rule_regimes(market, **given),
        regimes.fit_regimes: lambda **given: regimes.fit_regimes(jax.random.key(0), market, **given),
    }
    tried = 0
    for field, factory, parameter in PAIRS.values():
        if factory is Gains:  # checked by what is made with them
            continue
        for value in _outside(field):
            if factory in first or not _required(factory) - {parameter.name}:
                with pytest.raises(ValueError, match=parameter.name):
                    first.get(factory, factory)(**{parameter.name: value})
                tried += 1
    assert tried > 100


def _required(factory):
    parameters = inspect.signature(factory).parameters.values()
    return {parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty}


def _outside(field):
    """Values just outside the range of a number; beyond large bounds, which guard float32, Python takes anything."""
    words = accepted(field).partition(" in ")[2].partition(" or ")[0]
    if not words or "," not in words:
        return ()
    low, high = words.strip("[]()").split(", ")
    step = 1 if accepted(field).startswith("whole") else 1e-3
    kind = int if step == 1 else float
    below = kind(low) if words.startswith("(") else kind(low) - step
    above = float(high) if words.endswith(")") else float(high) + step
    return (below,) if float(high) >= 256 else (below, above)


def test_the_ends_of_every_range_are_numbers_in_float32():
    """Nothing is accepted that is 0, 1 or infinite there without being written so."""
    found = re.findall(r"number in ([\[(])([^,]+), ([^\])]+)([\])])", reference.reference())
    assert len(found) > 150
    for opens, low, high, closes in found:
        ends = np.asarray([float(low), float(high)])
        assert np.isfinite(ends.astype(np.float32)).all(), (low, high)
        assert opens == "[" or float(low) != 0, f"({low}, {high}: what is next to 0 is 0 in float32"
        assert closes == "]" or float(high) != 1, f"{low}, {high}): what is next to 1 is 1 in float32"
        inner = ends[(ends != 0) & (np.abs(ends) != 1)].astype(np.float32)
        assert not np.isin(inner, [0, 1]).any()


@pytest.mark.parametrize(
    "nonsense",
    [
        *("env.initial_cash=1e-300", "env.position_limit=1e-300", "costs.participation_limit=1e-300"),
        *("ppo.learning_rate=1e-320", "costs.commission_bps=1e15", "costs.slippage=1e15", "costs.impact=1e15"),
        *("costs.spread_multiplier=1e15", "costs.borrow_rate=1e15", "costs.margin_rate=1e15"),
        *("costs.transient_impact=1e15", "costs.permanent_impact=1e15", "costs.max_leverage=1e15"),
        *("data.min_half_spread=0.9999", "evaluation.level=0.999999999999", "ppo.gamma=1e-300"),
    ],
)
def test_nonsense_is_refused_in_one_line(nonsense):
    key, value = nonsense.split("=")
    with pytest.raises(ConfigError, match=rf"^--{key} is .*; allowed: (one of .* or )?number in [^\n]*$"):
        load_config(None, [f"--{key}", value])
