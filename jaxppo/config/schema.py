"""Sections of a run configuration, and what its keys need of each other; reading files is `jaxppo.config.load`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jaxppo import envs
from jaxppo.arguments import (
    AtLeastTwo,
    BoundedInt,
    Coefficient,
    Day,
    Factor,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Power,
    ProperFraction,
    Seed,
    Text,
)
from jaxppo.config.critic import check_critic
from jaxppo.config.from_signature import key_of
from jaxppo.config.items import Keys
from jaxppo.config.learning import PolicyConfig, PPOConfig, TrainingConfig
from jaxppo.config.masks import MaskConfig
from jaxppo.config.monitor import MonitorConfig, check_monitor
from jaxppo.config.rewards import RewardConfig, check_rewards
from jaxppo.config.risk import ConstraintConfig, ObjectiveConfig, check_risk
from jaxppo.config.simulation import SimulationConfig
from jaxppo.config.sizing import SizingConfig, check_order
from jaxppo.config.walk_forward import WalkForwardConfig, check_walk_forward

LONGEST_EPISODE = 2**30
BUDGETS = ("steps", "episodes", "minutes")
PERIODS = ("train", "validation", "test")

Group = Literal["price", "volume", "technical", "volatility", "calendar", "regime"]
Groups = Annotated[tuple[Group, ...], Field(min_length=1)]


class DataConfig(Keys):
    """Where prices come from, how `envs.load_market` checks them, and the periods of a run."""

    path: Text | Annotated[tuple[Text, ...], Field(min_length=1)] = "us5_1d"
    """Price file, folder, list of files, the name of a shipped data set, or `simulated` for the market of `simulation`;
    of the other keys only the periods then apply."""
    symbols: Annotated[tuple[Text, ...], Field(min_length=1)] | None = key_of(envs.load_market, "symbols")
    calendar: Text | None = key_of(envs.load_market, "calendar")
    timezone: Text | None = key_of(envs.load_market, "timezone")
    day_first: bool | None = key_of(envs.load_market, "day_first")
    adjust: bool = key_of(envs.load_market, "adjust")
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
    min_half_spread: float = key_of(envs.load_market, "min_half_spread")
    spread_window: int = key_of(envs.load_market, "spread_window")
    train: OpenFraction | tuple[Day, Day] = 0.6
    """Training period: share of the bars, or [first, last] dates, both included."""
    validation: OpenFraction | tuple[Day, Day] = 0.2
    """Validation period (checkpoint selection): share of the bars, or [first, last] dates."""
    test: OpenFraction | tuple[Day, Day] | None = None
    """Test period (never looked at before the end): share, dates, or absent for the rest."""
    purge_bars: NonNegativeInt = 5
    """Bars left out between one period and the next."""


class FeaturesConfig(Keys):
    """What the encoder reads."""

    groups: Groups = ("price", "volume", "technical", "volatility", "calendar")
    """Feature groups, each with its own embedding; `regime` needs `regimes.kind`."""
    normalisation_window: Annotated[int, Field(ge=10, le=2**20)] = 252
    """Span in bars of the causal normalisation."""


class RegimesConfig(Keys):
    """Bull, bear, sideways or crisis at the close of each bar (`jaxppo.envs.market.regimes`)."""

    kind: Literal["none", "rules", "hmm"] = "none"
    """No regimes, rules on trend, volatility and drawdown, or a hidden Markov model fitted on the training period."""
    scope: Literal["market", "asset"] = "market"
    """One regime for all, that of the equal-weight index, or one per asset."""
    trend_window: AtLeastTwo = 63
    """Rules: returns in the t-statistic of the trend."""
    trend_threshold: NonNegativeFloat = 1.0
    """Rules: bull above this t-statistic, bear below its negative, sideways between."""
    volatility_window: PositiveInt = 504
    """Rules: bars with which today's volatility is compared."""
    volatility_quantile: OpenFraction = 0.9
    """Rules: a crisis needs a volatility above this rank."""
    drawdown_window: PositiveInt = 252
    """Rules: bars of the recent high."""
    crisis_drawdown: OpenFraction = 0.1
    """Rules: a crisis needs a price this fraction below that high."""
    states: Annotated[int, Field(ge=2, le=6)] = 3
    """Model: hidden states."""
    usual_volatility_span: PositiveInt = 504
    """Model: bars of the volatility in whose units returns are observed."""
    restarts: BoundedInt = 8
    """Model: random starts of the fit, of which the likeliest counts."""
    model: Annotated[tuple[float, ...], Field(min_length=1)] | None = None
    """Model: its parameters, states in order of mean: initial probabilities, transitions by rows, means, variances;
    absent: fitted."""


class EnvConfig(Keys):
    """The trading environment (`envs.TradingEnv`), or any gymnax environment with the MLP policy."""

    name: Text = "trading"
    """`trading`, or the id of a gymnax environment such as CartPole-v1; then no other key of this section counts."""
    actions: Literal["discrete", "continuous", "band", "hierarchical"] = "discrete"
    """Per asset: discrete target levels, a continuous target weight, or the two edges of a no-trade band. Hierarchical:
    risk off or a gross bucket for the portfolio, then short, flat, long or hold per asset, then a size."""
    levels: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Target levels in units of `position_limit`; continuous and band actions span their range. The sizes of
    hierarchical actions, in units of the bucket, 0 among them."""
    gross_buckets: Annotated[tuple[float, ...], Field(min_length=1)] = (0.25, 0.5, 1.0)
    """Largest gross exposure in each bucket of hierarchical actions, as a share of the largest possible one."""
    position_limit: PositiveFloat | None = None
    """Largest absolute weight per asset, fraction of equity; absent: 1 / number of assets."""
    initial_cash: PositiveFloat = 1_000_000.0
    """Starting capital, currency of the prices."""
    episode_chunks: PositiveInt = 2
    """Length of a training episode in rollout chunks."""
    risk_aversion: Coefficient = 1.0
    """Relative risk aversion of the training reward; 1 is the log return."""
    drawdown_limit: OpenFraction | None = None
    """A training episode of a portfolio terminates beyond this drawdown; null for never."""
    start: Literal["flat", "random"] = "random"
    """Positions at the start of a training episode; evaluation starts flat."""
    latency_bars: BoundedInt = 1
    """Bars from decision to fill; 1 fills at the next open."""
    unfilled: Literal["carry", "drop"] = "carry"
    """What happens to the part of an order that a bar could not absorb."""
    fill_price: Literal["next_open", "decision_close"] = "next_open"
    """Price of fills; "decision_close" is a price the decision has already seen: for research on that bias only."""


class CostsConfig(Keys):
    """Costs of trading and holding (`envs.make_costs`)."""

    commission_bps: NonNegativeFloat = 1.0
    """Commission, basis points of notional."""
    commission_per_share: NonNegativeFloat = 0.0
    """Commission, currency per share."""
    commission_minimum: NonNegativeFloat = 0.0
    """Smallest commission of a filled order, currency."""
    spread_multiplier: NonNegativeFloat = 1.0
    """Share of the half-spread that a fill pays."""
    slippage: NonNegativeFloat = 0.02
    """Adverse move of each fill, multiples of per-bar volatility. The keys below multiply it by what is known at the
    close before, all together by 0.1 to 10."""
    slippage_open: Factor = 1.0
    """Factor of slippage in the first bar of a session of several bars."""
    slippage_close: Factor = 1.0
    """Factor of slippage in the last bar of a session of several bars."""
    slippage_volatility: Power = 0.0
    """Power of the volatility forecast over its usual value (252 bars) that multiplies slippage."""
    slippage_volume: Power = 0.0
    """Power of the usual volume over the forecast that multiplies slippage."""
    slippage_spread: Power = 0.0
    """Power of the half-spread over its usual value that multiplies slippage."""
    slippage_regimes: Annotated[tuple[Factor, ...], Field(min_length=4, max_length=4)] | None = None
    """Factors of slippage in bull, bear, sideways and crisis; needs `regimes.kind`."""
    impact: NonNegativeFloat = 0.6
    """Y of the square-root impact law."""
    transient_impact: NonNegativeFloat = 0.0
    """How far a fill of a bar's normal volume moves the price of the account's later ones, multiples of per-bar
    volatility; it decays."""
    transient_half_life: NonNegativeFloat = 1.0
    """Bars in which half of the transient impact has decayed; 0 for linear impact on the fill itself alone."""
    permanent_impact: NonNegativeFloat = 0.0
    """Likewise, impact that stays."""
    participation_limit: PositiveFraction | None = 0.1
    """Largest share of a bar's volume per fill; null for no limit."""
    borrow_rate: NonNegativeFloat = 0.01
    """Borrow fee on short positions, per year."""
    margin_rate: NonNegativeFloat = 0.05
    """Interest on negative cash, per year."""
    max_leverage: PositiveFloat = 1.0
    """Largest gross exposure an order may aim at, multiple of equity."""
    maintenance_margin: ProperFraction = 0.25
    """Equity below this share of gross exposure is liquidated."""


class EvaluationConfig(Keys):
    """Out-of-sample evaluation and the report."""

    decision: Literal["mode", "mean"] = "mode"
    """How the policy acts without randomness: its most probable target, or the mean of its targets."""
    bootstrap_resamples: Annotated[int, Field(ge=100, le=2**20)] = 2000
    """Resamples of the stationary block bootstrap behind every interval."""
    level: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Coverage of the intervals."""
    target_volatility: PositiveFloat = 0.10
    """Annual volatility of the volatility-targeted baseline."""


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
    masks: tuple[MaskConfig, ...] = ()
    """Limits of positions, such as `[{volatility_cap: {target: 0.15}}, no_short]`; they hold together."""
    sizing: tuple[SizingConfig, ...] = ()
    """What becomes of targets before they are traded, in order, such as `[{volatility_target: {target: 0.1}}]`."""
    rewards: tuple[RewardConfig, ...] = ()
    """What shapes the reward of training, in order: `[differential_sharpe, {drawdown_penalty: {weight: 0.5}}]`."""
    monitor: tuple[MonitorConfig, ...] = ()
    """Limits watched at every step, such as `[{drawdown: {limit: 0.2, stop: true}}]`."""
    objective: ObjectiveConfig = ObjectiveConfig()
    constraints: tuple[ConstraintConfig, ...] = ()
    """Limits on what training measures, such as `[{max_drawdown: {limit: 0.1}}]`, each with a learned multiplier."""
    policy: PolicyConfig = PolicyConfig()
    ppo: PPOConfig = PPOConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    walk_forward: WalkForwardConfig = WalkForwardConfig()

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
        check_walk_forward(self.walk_forward)
        if len(set(self.features.groups)) != len(self.features.groups):
            raise ValueError(f"features.groups {list(self.features.groups)} must name each group once")
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
        if self.masks and self.env.name != "trading":
            raise ValueError(f"masks limit positions in trading, but env.name is {self.env.name!r}; leave them out")
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
        return self

    @model_validator(mode="after")
    def _rewards_and_monitor_fit(self) -> Config:
        check_rewards(self.rewards, self.env.name, self.env.risk_aversion)
        check_monitor(self.monitor, self.env.name)
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
    def _one_budget(self) -> Config:
        given = [name for name in BUDGETS if getattr(self.training, name) is not None]
        if len(given) != 1:
            found = " and ".join(f"training.{name}" for name in given) or "none"
            raise ValueError(f"set exactly one of training.steps, training.episodes, training.minutes; set: {found}")
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
