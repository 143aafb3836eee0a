"""The run configuration: typed, frozen, strict; one YAML file plus dotted overrides."""

from __future__ import annotations

import difflib
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
GROUPS = Literal["price", "volume", "technical", "volatility", "calendar"]


class ConfigError(ValueError):
    """A mistake in a configuration; the message is one line that names the key, the value and what is allowed."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class DataConfig(_Section):
    """Where prices come from and how they are checked; see `envs.load_market`."""

    path: str | tuple[str, ...] = "us5_1d"
    """Price file, folder, list of files, or the name of a shipped data set."""
    symbols: tuple[str, ...] | None = None
    """Symbols to use, in this order; all of the file if absent."""
    calendar: str | None = None
    """Exchange calendar (XNYS, 24/5, ...) for sessions, the exchange's clock and missing days."""
    timezone: str | None = None
    """Time zone of times without an offset, and the exchange's clock if no calendar is named; absent: UTC."""
    day_first: bool | None = None
    """Whether 01/02/2020 is the first of February; absent: decided from the whole column."""
    adjust: bool = True
    """Adjust prices and volume by the file's adjustment column, if it has one."""
    on_bad_rows: Literal["error", "drop"] = "error"
    """Rows that cannot be right: refuse the file, or drop and count them."""
    on_duplicates: Literal["error", "first", "last"] = "error"
    """Differing rows for one time: refuse the file, or keep one."""
    on_crossed_quotes: Literal["error", "estimate"] = "error"
    """Bid above ask: refuse the file, or estimate the spread there."""
    on_off_session: Literal["keep", "drop", "error"] = "keep"
    """Bars that no session of the calendar touches."""
    range_tolerance: NonNegative = 1e-4
    """Relative excess of open or close over [low, high] that widens the bar instead of refusing it."""
    max_log_jump: Annotated[float, Field(gt=0.0)] = 1.25
    """Largest accepted empty space between the ranges of two bars, log price."""
    max_log_range: Annotated[float, Field(gt=0.0)] = 3.5
    """Largest accepted log(high / low) of a bar."""
    split_tolerance: NonNegative = 0.04
    """How near a gap must be to a whole ratio, log price, to count as an unadjusted split; 0 turns the search off."""
    max_hole_days: Annotated[float, Field(gt=0.0)] = 120.0
    """Longest accepted time between two bars of an asset, days."""
    zero_volume_tradable: bool = False
    """Whether bars with zero or missing volume can be traded."""
    min_half_spread: Annotated[float, Field(ge=0.0, lt=1.0)] = 1e-4
    """Floor of the estimated half-spread, fraction of the price; quotes are taken as they are."""
    spread_window: Annotated[int, Field(ge=3)] = 63
    """Bars per estimate of the spread."""
    train: Fraction | tuple[str, str] = 0.6
    """Training period: share of the bars, or [first, last] dates, both included."""
    validation: Fraction | tuple[str, str] = 0.2
    """Validation period (checkpoint selection): share of the bars, or [first, last] dates."""
    test: Fraction | tuple[str, str] | None = None
    """Test period (never looked at before the end): share, dates, or absent for the rest."""
    purge_bars: Annotated[int, Field(ge=0)] = 5
    """Bars left out between one period and the next."""


class FeaturesConfig(_Section):
    """What the encoder reads."""

    groups: tuple[GROUPS, ...] = ("price", "volume", "technical", "volatility", "calendar")
    """Feature groups, each with its own embedding."""
    normalisation_window: Annotated[int, Field(ge=10)] = 252
    """Span in bars of the causal normalisation."""


class EnvConfig(_Section):
    """The trading environment; see `envs.TradingEnv`."""

    actions: Literal["discrete", "continuous"] = "discrete"
    """Discrete target levels per asset, or a continuous box of target weights."""
    levels: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Target levels in units of `position_limit`; a continuous action spans their range."""
    position_limit: Annotated[float, Field(gt=0.0)] | None = None
    """Largest absolute weight per asset, fraction of equity; absent: 1 / number of assets."""
    initial_cash: Annotated[float, Field(gt=0.0)] = 1_000_000.0
    """Starting capital, currency of the prices."""
    episode_chunks: Positive = 2
    """Length of a training episode in rollout chunks."""
    start: Literal["flat", "random"] = "random"
    """Positions at the start of a training episode; evaluation starts flat."""
    latency_bars: Positive = 1
    """Bars from decision to fill; 1 fills at the next open."""
    unfilled: Literal["carry", "drop"] = "carry"
    """What happens to the part of an order that a bar could not absorb."""
    fill_price: Literal["next_open", "decision_close"] = "next_open"
    """Price of fills; "decision_close" uses a price the decision has already seen: for research on its own bias only."""


class CostsConfig(_Section):
    """Costs of trading and holding; see `envs.execution.Costs`."""

    commission_bps: NonNegative = 1.0
    """Commission, basis points of notional."""
    commission_per_share: NonNegative = 0.0
    """Commission, currency per share."""
    commission_minimum: NonNegative = 0.0
    """Smallest commission of a filled order, currency."""
    spread_multiplier: NonNegative = 1.0
    """Share of the half-spread that a fill pays."""
    slippage: NonNegative = 0.02
    """Adverse move of each fill, multiples of per-bar volatility."""
    impact: NonNegative = 0.6
    """Y of the square-root impact law."""
    participation_limit: Annotated[float, Field(gt=0.0, le=1.0)] | None = 0.1
    """Largest share of a bar's volume per fill; null for no limit."""
    borrow_rate: NonNegative = 0.01
    """Borrow fee on short positions, per year."""
    margin_rate: NonNegative = 0.05
    """Interest on negative cash, per year."""
    max_leverage: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest gross exposure an order may aim at, multiple of equity."""
    maintenance_margin: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    """Equity below this share of gross exposure is liquidated."""


class PolicyConfig(_Section):
    """The network; see `jaxppo.networks`."""

    kind: Literal["transformer", "mlp"] = "transformer"
    """Transformer over bars and assets, or a perceptron on the current bar."""
    width: Positive = 64
    """Model width."""
    layers: Positive = 2
    """Number of blocks."""
    heads: Positive = 8
    """Attention heads; twice their number must divide the width."""
    window: Annotated[int, Field(ge=2)] = 32
    """Bars that one attention layer sees."""
    expansion: Positive = 2
    """Hidden width of the feed-forward part, multiples of the width."""
    asset_attention: bool = True
    """Attend across assets at each bar."""


class PPOConfig(_Section):
    """Learning; see `jaxppo.ppo`."""

    paths: Positive = 32
    """Market paths P rolled out at once."""
    portfolios: Positive = 8
    """Portfolios K on each path."""
    chunk: Positive = 64
    """Bars S of a rollout."""
    epochs: Positive = 4
    """Passes over a rollout."""
    minibatches: Positive = 4
    """Minibatches a pass; must divide `paths`."""
    micro_batch: Positive | None = None
    """Paths that one encoder pass takes at a time; absent: chosen for the device. Changes memory and speed, not results."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 3e-4
    """Adam step size at the start."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the step size falls to zero over the budget."""
    gamma: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99
    """Discount per bar."""
    gae_lambda: Fraction = 0.95
    """Lambda of generalised advantage estimation."""
    clip: Annotated[float, Field(gt=0.0)] = 0.2
    """Clip range of the importance ratio."""
    value_coefficient: NonNegative = 0.5
    """Weight of the value loss."""
    entropy_coefficient: NonNegative = 0.01
    """Weight of the entropy bonus."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 0.5
    """Global gradient-norm clip."""
    reward_scale: Annotated[float, Field(gt=0.0)] = 100.0
    """Multiplier of the log-return reward; 100 counts in percent."""


class TrainingConfig(_Section):
    """The host loop."""

    steps: Annotated[int, Field(ge=1)] | None = None
    """Budget in environment steps (portfolio bars)."""
    episodes: Annotated[int, Field(ge=1)] | None = None
    """Budget in training episodes, of `env.episode_chunks * ppo.chunk` steps each."""
    minutes: Annotated[float, Field(gt=0.0)] | None = None
    """Budget in minutes of wall time, compilation included."""
    evaluate_every: Positive = 10
    """Iterations between evaluations on the validation period."""
    checkpoint_every: Positive = 10
    """Iterations between checkpoints."""
    devices: Positive | None = None
    """Devices to train on; absent: all."""


class EvaluationConfig(_Section):
    """Out-of-sample evaluation and the report."""

    bootstrap_resamples: Annotated[int, Field(ge=100)] = 2000
    """Resamples of the stationary block bootstrap behind every interval."""
    level: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Coverage of the intervals."""
    target_volatility: Annotated[float, Field(gt=0.0)] = 0.10
    """Annual volatility of the volatility-targeted baseline."""


class Config(_Section):
    """Everything that defines a run."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of all randomness."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; an absent device is an error."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype of the network; auto is bfloat16 on GPU and TPU, float32 on CPU."""
    data: DataConfig = DataConfig()
    features: FeaturesConfig = FeaturesConfig()
    env: EnvConfig = EnvConfig()
    costs: CostsConfig = CostsConfig()
    policy: PolicyConfig = PolicyConfig()
    ppo: PPOConfig = PPOConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.ppo.paths % self.ppo.minibatches:
            raise ValueError(f"ppo.paths {self.ppo.paths} must be a multiple of ppo.minibatches {self.ppo.minibatches}")
        if self.policy.width % (2 * self.policy.heads):
            raise ValueError(
                f"policy.width {self.policy.width} must be a multiple of 2 * policy.heads = {2 * self.policy.heads}"
            )
        levels = self.env.levels
        if list(levels) != sorted(set(levels)) or max(map(abs, levels)) > 1.0:
            raise ValueError(f"env.levels {list(levels)} must be increasing, distinct and within [-1, 1]")
        if self.env.actions == "continuous" and len(levels) < 2:
            raise ValueError(f"env.levels {list(levels)} must span a range for continuous actions")
        if self.env.fill_price == "decision_close" and self.env.latency_bars != 1:
            raise ValueError("env.fill_price decision_close needs env.latency_bars 1")
        if self.costs.maintenance_margin * self.costs.max_leverage >= 1.0:
            raise ValueError(
                f"costs.maintenance_margin {self.costs.maintenance_margin} times costs.max_leverage "
                f"{self.costs.max_leverage} must be < 1, or a fully invested portfolio is liquidated at once"
            )
        if len(set(self.features.groups)) != len(self.features.groups) or not self.features.groups:
            raise ValueError(f"features.groups {list(self.features.groups)} must name at least one group, each once")
        budgets = [n for n in ("steps", "episodes", "minutes") if getattr(self.training, n) is not None]
        if len(budgets) != 1:
            raise ValueError(f"training must set exactly one of steps, episodes, minutes; set are: {budgets or 'none'}")
        periods = (self.data.train, self.data.validation, self.data.test)
        shares = [p for p in periods if isinstance(p, float)]
        if shares and len(shares) != sum(p is not None for p in periods):
            raise ValueError("data.train, data.validation and data.test must be all shares or all dates")
        if sum(shares) > 1.0 + 1e-9 or 0.0 in shares:
            raise ValueError(f"data.train, data.validation, data.test shares {shares} must be > 0 and sum to at most 1")
        if not shares and self.data.test is None:
            raise ValueError("data.test must name its [first, last] dates when data.train does")
        return self


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers (1e-4 is a float) and dates kept as text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)


def load_config(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and applies overrides.

    Args:
      path: YAML file; keys that it leaves out have their defaults.
      overrides: command-line style: `("--ppo.learning-rate", "1e-4")` or `("--ppo.learning-rate=1e-4",)`. A dash in a key
        stands for an underscore; values are YAML. Budgets (`training.steps`, `.episodes`, `.minutes`) replace each other.

    Raises:
      ConfigError: file missing or not a mapping, unknown key, value of the wrong type or out of range, bad combination.
    """
    tree = _read_yaml(pathlib.Path(path))
    for key, value in _parse_overrides(overrides):
        _assign(tree, key, value)
    return validate_config(tree, source=str(path))


def validate_config(tree: dict[str, Any], *, source: str = "config") -> Config:
    """`Config` of a nested dict; `source` names it in errors.

    Raises:
      ConfigError: see `load_config`.
    """
    try:
        return Config.model_validate_json(json.dumps(tree))
    except pydantic.ValidationError as error:
        raise ConfigError(f"{source}: {_first_problem(error)}") from None
    except TypeError as error:
        raise ConfigError(f"{source}: {error}; only numbers, text, lists and mappings are allowed") from None


def dump_config(config: Config) -> str:
    """YAML of a resolved configuration; `load_config` of it gives the same one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None)


def _read_yaml(path: pathlib.Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None
    try:
        tree = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a mapping of sections, not {type(tree).__name__}")
    return tree


def _parse_overrides(overrides: Sequence[str]) -> list[tuple[list[str], Any]]:
    """Key path and YAML value of each override."""
    parsed, rest = [], list(overrides)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise ConfigError(f"unexpected argument {word!r}; overrides look like --ppo.learning-rate 1e-4")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
                raise ConfigError(f"--{key} has no value; write --{key} VALUE")
            text = rest.pop(0)
        try:
            value = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
        except yaml.YAMLError:
            raise ConfigError(f"--{key}: {text!r} is not a valid value") from None
        parsed.append((key.replace("-", "_").split("."), value))
    return parsed


def _assign(tree: dict[str, Any], key: list[str], value: Any) -> None:
    """Sets a nested key in place; a budget clears the other budgets."""
    node = tree
    for part in key[:-1]:
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise ConfigError(f"--{'.'.join(key)}: {part} is {node!r}, not a section")
    if key[:-1] == ["training"] and key[-1] in ("steps", "episodes", "minutes"):
        for budget in ("steps", "episodes", "minutes"):
            node.pop(budget, None)
    node[key[-1]] = value


def _first_problem(error: pydantic.ValidationError) -> str:
    """One line for the first error: the key, what is wrong, the value, the nearest known key."""
    problem = error.errors(include_url=False)[0]
    location = [str(part) for part in problem["loc"] if not str(part).startswith(("tuple[", "function-", "constrained"))]
    key = ".".join(part for part in location if part not in ("float", "str", "int", "bool"))
    if problem["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {key!r}; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key} is {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _known_keys(section: list[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in section:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
