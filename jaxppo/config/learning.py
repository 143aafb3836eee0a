"""The keys of what learns: network, PPO, training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from jaxppo.arguments import (
    AtLeastTwo,
    BoundedInt,
    Coefficient,
    Fraction,
    NonNegativeRatio,
    OpenFraction,
    OwnName,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    PositiveRatio,
    ProperFraction,
)
from jaxppo.config.base import BaseConfig, StartConfig, base_written_out, start_written_out
from jaxppo.config.items import Keys


def _whole(value: Any) -> Any:
    """Accepts `1e6` where a whole number is asked for."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


LearningRate = Annotated[float, Field(ge=1e-8, le=1.0)]
Discount = Annotated[float, Field(ge=1e-3, le=1.0)]
Divergence = Annotated[float, Field(ge=1e-8, le=100.0)]
ActionStd = Annotated[float, Field(ge=1e-3, le=10.0)]
Minutes = Annotated[float, Field(ge=1e-4, le=1e6)]
Budget = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=10**15)]


class PolicyConfig(Keys):
    """The network of the policy (`jaxppo.policy.networks`)."""

    kind: Literal["transformer", "mlp", "linear"] | OwnName = "transformer"
    """Transformer over bars and assets, a perceptron on the current bar, targets that are linear in its features, or
    `module:function` of your own, which makes the network between the embedded features and the head."""
    options: dict[str, Any] | None = None
    """Own function: its arguments, by name, beside those of this section that it takes: `width`, `layers`, `heads`,
    `window` and `expansion`."""
    base: Annotated[BaseConfig | None, BeforeValidator(base_written_out)] = None
    """What the policy tilts around, such as `trend`, `{volatility_target: {target: 0.1}}`, `{run: runs/NAME}` or
    `module:function`: untrained, it is the base. Absent: decisions are targets."""
    start: Annotated[StartConfig | None, BeforeValidator(start_written_out)] = None
    """What the network is fitted to before it learns, such as `{feature_portfolios: {target: 0.05}}`; with a base its
    tilts are. Absent: it starts as it is drawn."""
    tilt: Literal["add", "scale"] = "add"
    """Targets are `base + tilt`, where sizing transforms of shares size the tilt, or `base (1 + tilt)`; a tilt counts
    in units of `env.position_limit`."""
    width: PositiveInt = 64
    """Model width."""
    layers: BoundedInt = 2
    """Number of blocks."""
    heads: PositiveInt = 8
    """Attention heads; twice their number must divide the width."""
    window: AtLeastTwo = 32
    """Bars that one attention layer sees."""
    expansion: BoundedInt = 2
    """Hidden width of the feed-forward part, multiples of the width."""
    asset_attention: bool = True
    """Attend across assets at each bar."""
    positions: Literal["rotary", "rotary_rows", "alibi", "sinusoidal", "learned", "none"] = "rotary"
    """Rotary on elapsed time or on row numbers, a bias by the lag in rows (ALiBi, sinusoids, learned), or none."""
    bar_seconds: PositiveFloat | None = None
    """Time that counts as one bar for rotary positions, seconds; absent: median of the training period."""
    coarse_pools: Annotated[tuple[Annotated[int, Field(ge=2, le=4096)], ...], Field(max_length=4)] = ()
    """Coarser levels that attention reads beside its window: bars pooled into one token, such as [5, 20]."""
    coarse_window: BoundedInt = 16
    """Tokens of each coarser level that a bar attends to."""
    portfolio: Literal["add", "film", "cross_attention"] = "add"
    """How the head joins the portfolio to the memory: added, scaling it, or attending to all assets' memories."""
    dropout: ProperFraction = 0.0
    """Share of the encoder's units that is dropped in training, at the start."""
    dropout_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How dropout goes to `dropout_final` over the budget."""
    dropout_final: ProperFraction = 0.0
    """Share of the units that is dropped at the end, unless the schedule is constant."""
    attention: Literal["auto", "xla", "cudnn"] = "auto"
    """Kernel of attention over bars; auto is cuDNN's on GPUs where it can compute the rest of the policy, else XLA."""
    rematerialise: Literal["none", "minimal", "full"] = "none"
    """What the backward pass computes again to save memory: nothing, the insides of layers, or whole blocks."""
    action_distribution: Literal["squashed_gaussian", "beta"] = "squashed_gaussian"
    """Continuous and band actions of trading: a Gaussian squashed into their interval, or a Beta distribution on it."""
    action_std: ActionStd = 0.6
    """Standard deviation of a continuous action before squashing, at the start; not for beta."""
    quantiles: BoundedInt = 1
    """Quantiles of the return that the critic learns, at (i - 1/2) / N; 1 learns the mean instead."""


class PPOConfig(Keys):
    """Learning by proximal policy optimisation (`jaxppo.ppo`)."""

    paths: PositiveInt = 32
    """Market paths P rolled out at once."""
    portfolios: PositiveInt = 8
    """Portfolios K on each path."""
    chunk: PositiveInt = 64
    """Bars S of a rollout."""
    epochs: PositiveInt = 4
    """Passes over a rollout."""
    encoder_epochs: PositiveInt | None = None
    """Passes, the first ones, that train the whole network; the others train its head alone, on what the encoder then
    says, which is computed once. Absent: all."""
    minibatches: PositiveInt = 4
    """Minibatches a pass; must divide `paths`."""
    micro_batch: PositiveInt | None = None
    """Paths that one encoder pass takes at a time; absent: two on a CPU, on accelerators as many as fit. Changes memory
    and speed only."""
    learning_rate: LearningRate = 3e-4
    """Adam step size at the start."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the step size, and the length of natural-gradient steps, falls to zero over the budget."""
    gamma: Discount = 0.99
    """Discount per step."""
    gae_lambda: Fraction = 0.95
    """Lambda of generalised advantage estimation."""
    n_steps: PositiveInt = 5
    """Transitions of the n-step returns that the two mixtures use."""
    advantage_n_step: Fraction = 0.0
    """Weight of the n-step advantage; the rest is generalised advantage estimation."""
    target_lambda: Fraction | None = None
    """Lambda of the value target's lambda-return; absent: `gae_lambda`."""
    target_n_step: Fraction = 0.0
    """Weight of the n-step return in the value target; the rest is the lambda-return."""
    control_variate: bool = True
    """Subtract the mean advantage of the other portfolios on the path at the same bar; without effect for one."""
    hindsight_critic: bool = False
    """Show the critic the rest of the chunk's market returns (in training only; the actor never sees them)."""
    distortion: Literal["none", "cvar", "wang", "power"] = "none"
    """What the policy maximises of the distribution of returns: its mean, the mean of its worst share, or Wang's or the
    power distortion of it; needs `policy.quantiles`. See `jaxppo.risk.distortion`."""
    distortion_level: Annotated[float, Field(ge=1e-6, le=100.0)] | None = None
    """Of cvar: the worst share, at least 1 / `policy.quantiles` and at most 1. Of wang: standard deviations taken off a
    normal distribution. Of power: independent draws beside the first, of which the worst counts."""
    clip: PositiveRatio | None = 0.2
    """Clip range of the importance ratio; null for no clip."""
    dual_clip: Annotated[float, Field(gt=1.0, le=1e6)] | None = None
    """Bound of the loss where the advantage is negative, multiples of the advantage; null for none."""
    kl_penalty: Literal["none", "doubling", "integral"] = "none"
    """Penalty on KL(old || new) whose coefficient follows `kl_target`: doubled or halved, or an integral rule."""
    kl_target: Divergence = 0.01
    """Mean KL per iteration that the penalty aims at, nats."""
    kl_coefficient: PositiveRatio = 1.0
    """Coefficient of the penalty at the start."""
    kl_stop: Divergence | None = None
    """Mean KL of a minibatch beyond which the rest of the iteration is skipped, nats; null for never."""
    kl_limit: Divergence | None = None
    """Largest accepted mean KL of an iteration: a line search shortens its step until it holds; null for none."""
    line_search_steps: BoundedInt = 10
    """Lengths that the line search tries, each a fifth shorter, before it rejects the step."""
    direction: Literal["adam", "natural"] = "adam"
    """Minibatch Adam on the loss, or one natural-gradient step that aims at `kl_limit` an iteration."""
    conjugate_gradient_steps: BoundedInt = 10
    """Conjugate-gradient iterations of the natural gradient."""
    fisher_damping: NonNegativeRatio = 0.1
    """Multiple of the identity that is added to the Fisher matrix."""
    value_coefficient: Coefficient = 0.5
    """Weight of the value loss."""
    value_loss: Literal["squared", "clipped", "huber"] = "squared"
    """Value error: squared, squared with a clip around the value in the rollout, or Huber; not for quantiles."""
    value_clip: PositiveRatio = 0.2
    """Clip range of `value_loss: clipped`, in (normalised) values."""
    huber_delta: PositiveRatio = 1.0
    """Where `value_loss: huber` turns linear, in (normalised) values."""
    quantile_kappa: NonNegativeRatio = 0.0
    """Where the loss of quantiles turns linear, in (normalised) values; 0 for everywhere. What is learned are quantiles
    only as far as this is small beside the spread of returns."""
    value_normalisation: Literal["none", "running", "popart"] = "none"
    """Learn values in units of the targets' running spread; popart rescales the last layer to preserve its output."""
    value_statistics_rate: PositiveFraction = 0.05
    """Weight of an iteration's targets in those running statistics."""
    entropy_coefficient: Coefficient = 0.01
    """Weight of the entropy bonus at the start."""
    entropy_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the weight of the entropy bonus goes to `entropy_final` over the budget."""
    entropy_final: Coefficient = 0.0
    """Weight of the entropy bonus at the end, unless the schedule is constant."""
    max_grad_norm: PositiveRatio = 0.5
    """Global gradient-norm clip."""
    reward_scale: PositiveRatio = 20.0
    """Multiplier of the reward; 100 counts log returns in percent."""


class PathwiseConfig(Keys):
    """Learning by the gradient of what accounts earn, through the market (`jaxppo.ppo.pathwise`).

    Paths, chunks, step size, discount and the fit of the critic are those of `ppo`.
    """

    objective: Literal["reward", "sharpe"] = "reward"
    """Discounted rewards, or the Sharpe ratio of the log returns of all accounts and bars of a rollout."""
    bootstrap: bool = True
    """Whether what follows a chunk counts, by the critic; not read by `sharpe`."""
    explore: bool | None = None
    """Draw continuous and band actions instead of taking the most probable ones; how much is learned. Without, a band
    in which nothing is ever traded has no gradient. Absent: for bands alone."""
    then: Literal["none", "ppo"] = "none"
    """What trains after it: nothing, or PPO, which starts from its policy."""
    then_from: OpenFraction = 0.5
    """Share of the budget after which PPO goes on."""
    then_kl: NonNegativeRatio = 1.0
    """Weight of KL(policy || policy that PPO started from) in PPO's loss."""


class TrainingConfig(Keys):
    """The host loop."""

    learner: Literal["ppo", "pathwise"] = "ppo"
    """Proximal policy optimisation, or the gradient through the market, see `pathwise`."""
    steps: Budget | None = None
    """Budget in environment steps (portfolio bars)."""
    episodes: Budget | None = None
    """Budget in training episodes, of `env.episode_chunks * ppo.chunk` steps each."""
    minutes: Minutes | None = None
    """Budget in minutes of training: compiling and evaluating come on top. With `episodes`: what is spent first."""
    evaluate_every: PositiveInt = 10
    """Iterations between evaluations on the validation period."""
    checkpoint_every: PositiveInt = 10
    """Iterations between checkpoints."""
    devices: PositiveInt | None = None
    """Devices to train on; absent: as many as the paths of a minibatch can be split over."""
