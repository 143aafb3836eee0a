"""Sections of a run configuration, and what its keys need of each other; reading files is `jaxppo.config.load`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from jaxppo import envs
from jaxppo.arguments import (
    Date,
    Day,
    NonNegativeInt,
    Numbers,
    OpenFraction,
    OwnName,
    Seed,
    Text,
)
from jaxppo.config.critic import check_critic
from jaxppo.config.evaluation import EvaluationConfig, check_evaluation
from jaxppo.config.features import FeaturesConfig, check_features
from jaxppo.config.from_signature import key_of
from jaxppo.config.items import Keys
from jaxppo.config.learner import check_base, check_encoder_epochs, check_pathwise
from jaxppo.config.learning import PathwiseConfig, PolicyConfig, PPOConfig, TrainingConfig
from jaxppo.config.masks import MaskConfig, check_masks
from jaxppo.config.monitor import MonitorConfig, check_monitor
from jaxppo.config.rewards import RewardConfig, check_rewards
from jaxppo.config.risk import ConstraintConfig, ObjectiveConfig, check_risk
from jaxppo.config.simulation import SimulationConfig
from jaxppo.config.sizing import SizingConfig, check_order, in_units
from jaxppo.config.sweep import SweepConfig, check_sweep
from jaxppo.config.tracking import TrackingConfig, check_tracking
from jaxppo.config.trading import CostsConfig, EnvConfig, ExitsConfig, LimitOrdersConfig
from jaxppo.config.walk_forward import WalkForwardConfig, check_walk_forward
from jaxppo.envs import regimes
from jaxppo.envs.data.options import HalfSpread, Multiplier, RateColumn, SpreadKind, Tick, VolumeKind

LONGEST_EPISODE = 2**30
BUDGETS = ("steps", "episodes", "minutes")
PERIODS = ("train", "validation", "test")


class DataConfig(Keys):
    """Where prices come from, how `envs.load_market` checks them, and the periods of a run."""

    path: Text | Annotated[tuple[Text, ...], Field(min_length=1)] = "us5_1d"
    """Price file, folder, list or pattern of files (`lake/**/*.parquet`), the name of a shipped data set, a source
    (`yfinance:SPY,QQQ`, `ccxt:binance:BTC/USDT:1h`, `alpaca:SPY:1Day`, `hf:owner/name`, `duckdb:FILE:TABLE`),
    `module:function` of your own, which returns what `envs.load_market` takes or a market, or `simulated` for the
    market of `simulation`. To `simulated`, and to a market that a function returns, only the periods apply of the
    other keys of `data`."""
    symbols: Annotated[tuple[Text, ...], Field(min_length=1)] | None = key_of(envs.load_market, "symbols")
    calendar: Text | None = key_of(envs.load_market, "calendar")
    timezone: Text | None = key_of(envs.load_market, "timezone")
    day_first: bool | None = key_of(envs.load_market, "day_first")
    adjust: bool = key_of(envs.load_market, "adjust")
    volume: VolumeKind | None = key_of(envs.load_market, "volume")
    rate_column: RateColumn | None = key_of(envs.load_market, "rate_column")
    stablecoins_at_par: bool = key_of(envs.load_market, "stablecoins_at_par")
    on_bad_rows: Literal["error", "drop"] = key_of(envs.load_market, "on_bad_rows")
    on_duplicates: Literal["error", "first", "last"] = key_of(envs.load_market, "on_duplicates")
    on_crossed_quotes: Literal["error", "estimate"] = key_of(envs.load_market, "on_crossed_quotes")
    on_off_session: Literal["keep", "drop", "error"] = key_of(envs.load_market, "on_off_session")
    range_tolerance: float = key_of(envs.load_market, "range_tolerance")
    max_log_jump: float = key_of(envs.load_market, "max_log_jump")
    max_log_range: float = key_of(envs.load_market, "max_log_range")
    max_log_spike: float = key_of(envs.load_market, "max_log_spike")
    split_tolerance: float = key_of(envs.load_market, "split_tolerance")
    max_hole_days: float = key_of(envs.load_market, "max_hole_days")
    zero_volume_tradable: bool = key_of(envs.load_market, "zero_volume_tradable")
    spread: SpreadKind | None = key_of(envs.load_market, "spread")
    half_spread: HalfSpread | dict[str, HalfSpread] | None = key_of(envs.load_market, "half_spread")
    tick: Tick | dict[str, Tick] | None = key_of(envs.load_market, "tick")
    min_half_spread: float = key_of(envs.load_market, "min_half_spread")
    spread_window: int = key_of(envs.load_market, "spread_window")
    multiplier: Multiplier | dict[str, Multiplier] = key_of(envs.load_market, "multiplier")
    futures: bool | Annotated[tuple[Text, ...], Field(min_length=1)] = key_of(envs.load_market, "futures")
    columns: Annotated[tuple[Text, ...], Field(min_length=1)] | dict[Text, Text | None] | None = key_of(
        envs.load_market, "columns"
    )
    funding: Text | None = key_of(envs.load_market, "funding")
    dividends: Text | None = key_of(envs.load_market, "dividends")
    splits: Text | None = key_of(envs.load_market, "splits")
    start: Date | None = key_of(envs.load_market, "start")
    end: Date | None = key_of(envs.load_market, "end")
    refresh: bool = key_of(envs.load_market, "refresh")
    train: OpenFraction | tuple[Day, Day] = 0.6
    """Training period: share of the bars, or [first, last] dates, both included."""
    validation: OpenFraction | tuple[Day, Day] = 0.2
    """Validation period (checkpoint selection): share of the bars, or [first, last] dates."""
    test: OpenFraction | tuple[Day, Day] | None = None
    """Test period (never looked at before the end): share, dates, or absent for the rest."""
    purge_bars: NonNegativeInt = 5
    """Bars left out between one period and the next."""


class RegimesConfig(Keys):
    """Bull, bear, sideways or crisis at the close of each bar (`jaxppo.envs.regimes`)."""

    kind: Literal["none", "rules", "hmm"] | OwnName = "none"
    """No regimes, rules on trend, volatility and drawdown, a hidden Markov model fitted on the training period, or
    `module:function` of your own: takes a market and returns probabilities, `[T, 4]` or `[T, A, 4]`."""
    options: dict[str, Any] | None = None
    """Own function: its further arguments, by name."""
    scope: Literal["market", "asset"] = "market"
    """One regime for all, that of the equal-weight index, or one per asset."""
    trend_window: int = key_of(regimes.rule_regimes, "trend_window", prefix="Rules: ")
    trend_threshold: float = key_of(regimes.rule_regimes, "trend_threshold", prefix="Rules: ")
    volatility_window: int = key_of(regimes.rule_regimes, "volatility_window", prefix="Rules: ")
    volatility_quantile: float = key_of(regimes.rule_regimes, "volatility_quantile", prefix="Rules: ")
    drawdown_window: int = key_of(regimes.rule_regimes, "drawdown_window", prefix="Rules: ")
    crisis_drawdown: float = key_of(regimes.rule_regimes, "crisis_drawdown", prefix="Rules: ")
    states: int = key_of(regimes.fit_regimes, "states", prefix="Model: ")
    usual_volatility_span: int = key_of(regimes.fit_regimes, "usual_volatility_span", prefix="Model: ")
    restarts: int = key_of(regimes.fit_regimes, "restarts", prefix="Model: ")
    model: Numbers | None = None
    """Model: its parameters, states in order of mean: initial probabilities, transitions by rows, means, variances;
    absent: fitted."""


class Config(Keys):
    """Everything that defines a run."""

    seed: Seed = 0
    """Seed of all randomness."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; an absent device is an error."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype of the network; auto is bfloat16 on GPU and TPU, float32 on CPU."""
    data: DataConfig = DataConfig()
    simulation: SimulationConfig = SimulationConfig()
    features: FeaturesConfig = FeaturesConfig()
    regimes: RegimesConfig = RegimesConfig()
    env: EnvConfig = EnvConfig()
    costs: CostsConfig = CostsConfig()
    exits: ExitsConfig = ExitsConfig()
    limit_orders: LimitOrdersConfig = LimitOrdersConfig()
    masks: tuple[MaskConfig, ...] = ()
    """Limits of positions, such as `[{volatility_cap: {target: 0.15}}, no_short]`; they hold together."""
    sizing: tuple[SizingConfig, ...] = ()
    """What becomes of targets before they are traded, in order, such as `[{volatility_target: {target: 0.1}}]`."""
    rewards: tuple[RewardConfig, ...] = ()
    """What shapes the reward of training, in order: `[differential_sharpe, {drawdown_penalty: {weight: 0.5}}]`."""
    monitor: tuple[MonitorConfig, ...] = ()
    """Limits monitored at every step, such as `[{drawdown: {limit: 0.2, stop: true}}]`."""
    objective: ObjectiveConfig = ObjectiveConfig()
    constraints: tuple[ConstraintConfig, ...] = ()
    """Limits on what training measures, such as `[{max_drawdown: {limit: 0.1}}]`, each with a learned multiplier."""
    policy: PolicyConfig = PolicyConfig()
    ppo: PPOConfig = PPOConfig()
    pathwise: PathwiseConfig = PathwiseConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    walk_forward: WalkForwardConfig = WalkForwardConfig()
    sweep: SweepConfig = SweepConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _batches_fit(self) -> Config:
        if self.ppo.paths % self.ppo.minibatches:
            raise ValueError(f"ppo.paths {self.ppo.paths} must be a multiple of ppo.minibatches {self.ppo.minibatches}")
        if self.policy.width % (2 * self.policy.heads):
            raise ValueError(
                f"policy.width {self.policy.width} must be a multiple of 2 * policy.heads = {2 * self.policy.heads}"
            )
        if self.env.episode_chunks * self.ppo.chunk > LONGEST_EPISODE:
            raise ValueError(
                f"env.episode_chunks {self.env.episode_chunks} times ppo.chunk {self.ppo.chunk} is an episode of more "
                f"than {LONGEST_EPISODE} bars"
            )
        if self.ppo.direction == "natural" and self.ppo.kl_limit is None:
            raise ValueError("ppo.direction natural needs ppo.kl_limit, the length of its steps (0.01 is usual)")
        check_critic(self.policy.quantiles, self.ppo)
        check_encoder_epochs(self.ppo, self.policy, self.env.name, self.training.learner)
        if self.training.learner == "pathwise":
            check_pathwise(self.pathwise, self.ppo, self.env.name)
        elif self.pathwise != PathwiseConfig():
            given = min(self.pathwise.model_fields_set)
            raise ValueError(f"pathwise.{given} is given, but training.learner is ppo, which does not read it")
        check_walk_forward(self.walk_forward)
        check_tracking(self.tracking)
        check_features(self.features)
        return self

    @model_validator(mode="after")
    def _trading_is_possible(self) -> Config:
        levels = self.env.levels
        if list(levels) != sorted(set(levels)) or max(map(abs, levels)) > 1.0:
            raise ValueError(f"env.levels {list(levels)} must be increasing, distinct and within [-1, 1]")
        if self.env.actions != "discrete" and len(levels) < 2:
            raise ValueError(f"env.levels {list(levels)} must span a range for env.actions {self.env.actions}")
        if self.env.actions == "hierarchical" and 0.0 not in levels:
            raise ValueError(f"env.levels {list(levels)} must hold 0 for env.actions hierarchical")
        shares = self.env.gross_buckets
        if list(shares) != sorted(set(shares)) or not (shares[0] > 0.0 and shares[-1] <= 1.0):
            raise ValueError(f"env.gross_buckets {list(shares)} must be increasing, distinct and within (0, 1]")
        if self.env.fill_price == "decision_close" and self.env.latency_bars != 1:
            raise ValueError(
                f"env.latency_bars is {self.env.latency_bars}; env.fill_price decision_close needs env.latency_bars 1"
            )
        if self.costs.maintenance_margin * self.costs.max_leverage >= 1.0:
            raise ValueError(
                f"costs.maintenance_margin {self.costs.maintenance_margin} times costs.max_leverage "
                f"{self.costs.max_leverage} must be < 1, or a fully invested portfolio is liquidated at once"
            )
        return self

    @model_validator(mode="after")
    def _regimes_are_known(self) -> Config:
        check_masks(self.masks, self.env.name)
        if self.costs.options is not None and self.costs.function is None:
            raise ValueError("costs.options are of costs.function, which is absent")
        if self.regimes.options is not None and ":" not in self.regimes.kind:
            raise ValueError(f"regimes.options are of an own function, but regimes.kind is {self.regimes.kind}")
        if self.policy.options is not None and ":" not in self.policy.kind:
            raise ValueError(f"policy.options are of an own function, but policy.kind is {self.policy.kind}")
        if self.regimes.kind == "none":
            if "regime" in self.features.groups:
                raise ValueError("features.groups names regime, but regimes.kind is none; choose rules or hmm")
            if any(mask.kind == "regime" for mask in self.masks):
                raise ValueError("masks names regime, but regimes.kind is none; choose rules or hmm")
            if self.costs.slippage_regimes is not None:
                raise ValueError("costs.slippage_regimes is given, but regimes.kind is none; choose rules or hmm")
        n, model = self.regimes.states, self.regimes.model
        if model is not None:
            _check_model(n, model)
        met = {2: ("bull", "bear"), 3: ("bull", "bear", "crisis")}.get(n, ()) if self.regimes.kind == "hmm" else ()
        for number, mask in enumerate(self.masks):
            for name in mask.values.model_fields_set if met and mask.kind == "regime" else ():
                if name not in (*met, "force"):
                    raise ValueError(
                        f"masks[{number}].regime names {name}, which regimes.states {n} never gives; it gives "
                        f"{', '.join(met)}"
                    )
        return self

    @model_validator(mode="after")
    def _sizes_can_be_kept(self) -> Config:
        if self.sizing and self.env.name != "trading":
            raise ValueError(f"sizing sizes positions in trading, but env.name is {self.env.name!r}; leave it out")
        check_order(self.sizing)
        for number, item in enumerate(self.sizing):
            if item.kind == "drawdown_control" and self.env.latency_bars != 1:
                raise ValueError(
                    f"env.latency_bars is {self.env.latency_bars}; sizing[{number}].drawdown_control needs "
                    "env.latency_bars 1"
                )
            if item.kind == "drawdown_control" and self.env.fill_price != "next_open":
                raise ValueError(
                    f"env.fill_price is {self.env.fill_price}; sizing[{number}].drawdown_control needs env.fill_price "
                    "next_open"
                )
            if item.kind == "drawdown_control" and self.limit_orders.offset is not None:
                raise ValueError(
                    f"limit_orders.offset is {self.limit_orders.offset}; sizing[{number}].drawdown_control needs "
                    "orders that fill at the next open, without limit_orders"
                )
        # After the checks, which name places in the list as it was given.
        object.__setattr__(self, "sizing", in_units(self.sizing, self.env.units, self.env.name, self.policy.tilt))
        return self

    @model_validator(mode="after")
    def _rewards_monitor_and_evaluation_fit(self) -> Config:
        check_rewards(self.rewards, self.env.name, self.env.risk_aversion)
        check_monitor(self.monitor, self.env.name)
        check_sweep(self.sweep, self.rewards, self.env.name, self.ppo.kl_penalty, self.ppo.entropy_schedule)
        check_evaluation(self.evaluation, self.env.name)
        return self

    @model_validator(mode="after")
    def _risk_fits(self) -> Config:
        check_risk(self.objective, self.constraints, self.env.name, self.env.risk_aversion)
        outcome = self.objective.outcome or self.objective.usual_outcome(self.env.name == "trading")
        if self.rewards and outcome != "reward":
            raise ValueError(
                f"rewards[0].{self.rewards[0].kind} shapes the reward, but objective.kind {self.objective.kind} of the "
                f"{outcome} return takes its place; leave rewards out, or set objective.outcome reward"
            )
        return self

    @model_validator(mode="after")
    def _learner_fits(self) -> Config:
        env = self.env
        check_base(self.policy, env.name, env.actions, env.levels, [item.kind for item in self.sizing])
        if self.policy.base is None and any(item.kind == "active_utility" for item in self.rewards):
            raise ValueError("rewards names active_utility, but there is no policy.base whose utility to count from")
        if self.training.learner != "pathwise":
            return self
        expected = self.env.name == "trading" and self.env.actions in ("discrete", "hierarchical")
        if expected and self.pathwise.then == "none" and self.evaluation.decision != "mean":
            raise ValueError(
                f"env.actions {self.env.actions} are learned by their mean target; set evaluation.decision mean, or "
                "pathwise.then ppo"
            )
        if self.pathwise.explore and expected:
            raise ValueError(f"pathwise.explore is true, but env.actions {self.env.actions} have no derivative")
        beta = self.policy.action_distribution == "beta" and self.env.name == "trading" and not expected
        if beta and (self.pathwise.explore or (self.env.actions == "band" and self.pathwise.explore is None)):
            raise ValueError(
                "policy.action_distribution beta has no derivative where pathwise.explore draws actions; it must be "
                "squashed_gaussian"
            )
        if self.pathwise.objective == "sharpe":
            unread = {"rewards": bool(self.rewards), "constraints": bool(self.constraints)}
            unread["objective"] = self.objective != ObjectiveConfig()
            if given := next((name for name, value in unread.items() if value), None):
                raise ValueError(
                    f"{given} is given, but pathwise.objective sharpe does not read the reward; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _one_budget(self) -> Config:
        given = [name for name in BUDGETS if getattr(self.training, name) is not None]
        if not given or (len(given) > 1 and "steps" in given):
            found = " and ".join(f"training.{name}" for name in given) or "none"
            raise ValueError(
                f"set exactly one of training.steps, training.episodes, training.minutes, or the last two; set: {found}"
            )
        return self

    @model_validator(mode="after")
    def _periods_fit(self) -> Config:
        periods = {name: getattr(self.data, name) for name in PERIODS}
        given = {name: period for name, period in periods.items() if period is not None}
        shares = {name: share for name, share in given.items() if isinstance(share, float)}
        if shares and len(shares) != len(given):
            raise ValueError(f"data.{', data.'.join(given)} must be all shares or all [first, last] dates")
        if not shares and self.data.test is None:
            raise ValueError("data.test must name its [first, last] dates, as data.train does")
        total = sum(shares.values())
        if total > 1.0 + 1e-9 or (self.data.test is None and total >= 1.0 - 1e-9):
            listed = " + ".join(f"data.{name} {share:g}" for name, share in shares.items())
            limit = "at most 1" if self.data.test is not None else "below 1, which leaves the rest to data.test"
            raise ValueError(f"{listed} = {total:g} must be {limit}")
        return self


def _check_model(n: int, model: tuple[float, ...]) -> None:
    """Refuses a `regimes.model` that is no hidden Markov model of `n` states."""
    if len(model) != n + n * n + 2 * n:
        raise ValueError(f"regimes.model has {len(model)} numbers; {n} states have {n + n * n + 2 * n}")
    rows = [model[i * n : (i + 1) * n] for i in range(n + 3)]
    for name, row in [
        ("initial probabilities", rows[0]),
        *((f"transitions from state {i}", rows[i + 1]) for i in range(n)),
    ]:
        if min(row) < 0.0 or not abs(sum(row) - 1.0) < 1e-3:
            raise ValueError(f"regimes.model: {name} are {list(row)}; they must be >= 0 and sum to 1")
    if list(rows[-2]) != sorted(rows[-2]):
        raise ValueError(f"regimes.model: means are {list(rows[-2])}; states come in order of their mean")
    if not min(rows[-1]) > 0.0:
        raise ValueError(f"regimes.model: variances are {list(rows[-1])}; they must be > 0")
