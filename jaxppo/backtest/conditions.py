"""What a policy trades under on any market: rules, costs, and how the tables of a market are made."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxppo.backtest.account import AccountRules
from jaxppo.config import Config, digest_tree
from jaxppo.envs.execution.costs import Costs, make_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.transform import Transform
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.protocol import Policy
from jaxppo.policy.rules import flat
from jaxppo.risk.sizing.transform import chain
from jaxppo.run.regimes import find_regimes, regimes_warmup
from jaxppo.run.saved import SavedRun


class Conditions(NamedTuple):
    """What a policy trades under; static but for `costs`.

    Attributes:
      rules: fills, masks, sizing and monitored limits.
      costs: cost parameters.
      prepare: `(costs, market) -> EnvParams` with every table: a resampled market changes what is seen as well as what
        is earned.
      warmup: earliest bar at which an account can decide.
      history: bars before the first decision on a drawn market, >= `warmup`: what transforms and regimes read is formed
        on them.
      identity: digest of every setting that shapes decisions and fills, apart from the costs.
    """

    rules: AccountRules
    costs: Costs
    prepare: Callable[[Costs, MarketData], EnvParams]
    warmup: int
    history: int
    identity: str


def plain_conditions(
    n_assets: int,
    *,
    periods: float,
    costs: Costs | None = None,
    fill_rule: FillRule = FillRule(),
    initial_cash: float = 1e6,
) -> Conditions:
    """An account without masks, sizing and monitored limits.

    Args:
      n_assets: A.
      periods: bars per year, > 0.
      costs: None takes `make_costs()`, which charges all costs.
      fill_rule: latency, carry and fill price.
      initial_cash: currency, > 0.

    Raises:
      ValueError: an argument outside its range.
    """
    if not periods > 0 or not initial_cash > 0:
        raise ValueError(f"periods ({periods}) and initial_cash ({initial_cash}) must be > 0")
    env = TradingEnv(
        n_assets=n_assets,
        observation="index",
        position_limit=1.0,
        window=1,
        fill_rule=fill_rule,
        groups=("calendar",),
        normalisation_window=2,
    )

    def prepare(costs: Costs, market: MarketData) -> EnvParams:
        return env.make_params(market, costs, initial_cash=initial_cash)

    costs = make_costs() if costs is None else costs
    identity = _hashed([repr(fill_rule), float(initial_cash)])
    return Conditions(AccountRules(env, periods, limited=False), costs, prepare, 0, 0, identity)


def conditions_of(run: SavedRun, *, base: bool = True) -> Conditions:
    """What the agent of a run trades under on any market: its masks, sizing, costs and monitored limits.

    On another market it sees what it would have seen there: features, and regimes by the model fitted in training.

    Args:
      run: from `jaxppo.backtest.load_run`.
      base: False for a rule, where the decisions of the agent are tilts around a base, or those of one strategy of a
        book. The weights of a rule are those that its account shall hold; what sizes the account after base and book
        stays.
    """
    setup = run.setup
    env, config = setup.env if base else _without_base(setup.env)[1], setup.config

    def prepare(costs: Costs, market: MarketData) -> EnvParams:
        regimes, _ = find_regimes(config.regimes, market, market.n_bars - 1, config.seed)
        return env.make_params(
            market,
            costs,
            initial_cash=config.env.initial_cash,
            feature_dtype=setup.encoder.dtype,
            periods=setup.periods_per_year,
            regimes=regimes,
        )

    formed = [regimes_warmup(config.regimes), *(part.warmup for part in (env.masks, env.sizing) if part is not None)]
    return Conditions(
        rules=AccountRules(env, setup.periods_per_year, setup.monitor),
        costs=setup.params.costs,
        prepare=prepare,
        warmup=env.first_decision,
        history=max(env.first_decision, env.window + max(formed)),
        identity=_config_identity(config) if env is setup.env else _hashed([_config_identity(config), "without base"]),
    )


def refuse_weights_as_tilts(policy: Policy, conditions: Conditions) -> None:
    """Refuses a rule where decisions are tilts around a base, or those of one strategy of a book.

    Args:
      policy: who decides; one that takes no position trades the base itself, and an agent was trained to tilt.
      conditions: what it trades under.

    Raises:
      ValueError: names the rule, and the conditions for it.
    """
    decides = policy.encoding is None and policy.apply is not flat().apply
    if decides and _without_base(conditions.rules.env)[0]:
        raise ValueError(
            f"{policy.name} decides weights, but these conditions take decisions for tilts around a base, or for one "
            "strategy of a book; take conditions_of(run, base=False), or check=False if that is meant"
        )


def tables_without_base(env: TradingEnv, params: EnvParams) -> EnvParams:
    """The tables of a market for `conditions_of(run, base=False)`, from those for the agent.

    Args:
      env: of the agent.
      params: with its tables.
    """
    n_before, without = _without_base(env)
    return params.replace(sizing=() if without.sizing is None else params.sizing[n_before:])


@functools.lru_cache
def _without_base(env: TradingEnv) -> tuple[int, TradingEnv]:
    """How many parts of a sizing are left out, and the environment with the others: those after base or book."""
    parts = () if env.sizing is None else env.sizing.parts
    combines = [number for number, part in enumerate(parts) if not isinstance(part, Transform)]
    if not combines:
        return 0, env
    env, kept = copy.copy(env), parts[combines[-1] + 1 :]
    env.sizing = chain(*kept) if kept else None
    return combines[-1] + 1, env


def _config_identity(config: Config) -> str:
    """Digest of a configuration, as far as it shapes decisions and fills: where it runs and its bootstrap do not."""
    tree = digest_tree(config)
    del tree["device"], tree["training"]["devices"]
    for name in ("bootstrap_resamples", "level", "baselines"):
        tree["evaluation"].pop(name, None)
    return _hashed(tree)


def _hashed(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
