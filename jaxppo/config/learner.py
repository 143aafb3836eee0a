"""What the pathwise learner, and a base, need of the other keys."""

from __future__ import annotations

from collections.abc import Sequence

from jaxppo.config.learning import PathwiseConfig, PolicyConfig, PPOConfig

OF_PPO = ("advantage_n_step", "control_variate", "distortion", "distortion_level", "clip", "dual_clip", "kl_penalty",
          "kl_target", "kl_coefficient", "kl_stop", "kl_limit", "line_search_steps", "direction", "fisher_damping",
          "conjugate_gradient_steps", "entropy_coefficient", "entropy_schedule", "entropy_final")  # fmt: skip
"""Keys of `ppo` that only PPO reads."""


def check_pathwise(pathwise: PathwiseConfig, ppo: PPOConfig, environment: str) -> None:
    """Refuses keys that the pathwise learner cannot use.

    Args:
      pathwise: its section.
      ppo: hyper-parameters.
      environment: `env.name`.

    Raises:
      ValueError: names the key, its value and what is allowed.
    """
    if environment != "trading" and ppo.portfolios > 1 and not pathwise.explore:
        raise ValueError(
            f"ppo.portfolios is {ppo.portfolios}; without pathwise.explore the portfolios of a path are the same: "
            "set it to 1 and raise ppo.paths"
        )
    if environment != "trading" and pathwise.objective == "sharpe":
        raise ValueError(f"pathwise.objective sharpe is of an equity, but env.name is {environment!r}; use reward")
    if pathwise.objective == "sharpe" and not pathwise.bootstrap:
        raise ValueError("pathwise.bootstrap is false, but pathwise.objective sharpe does not read it; leave it out")
    if pathwise.then == "none":
        for name in OF_PPO:
            if getattr(ppo, name) != PPOConfig.model_fields[name].default:
                raise ValueError(
                    f"ppo.{name} is {getattr(ppo, name)}, which training.learner pathwise does not read; leave it out"
                )
        for name in ("then_from", "then_kl"):
            if name in pathwise.model_fields_set and getattr(pathwise, name) != getattr(PathwiseConfig(), name):
                raise ValueError(f"pathwise.{name} is {getattr(pathwise, name):g}, which only pathwise.then ppo reads")


def check_encoder_epochs(ppo: PPOConfig, policy: PolicyConfig, environment: str, learner: str) -> None:
    """Refuses epochs of the head alone where there is no encoder to leave alone, or nothing that would read it.

    Args:
      ppo: hyper-parameters.
      policy: its section.
      environment: `env.name`.
      learner: `training.learner`.

    Raises:
      ValueError: names the key, its value and what is allowed.
    """
    given = ppo.encoder_epochs
    if given is None:
        return
    if given > ppo.epochs:
        raise ValueError(f"ppo.encoder_epochs is {given}; allowed: 1 to ppo.epochs, which is {ppo.epochs}")
    reason = ""
    if environment != "trading":
        reason = f"env.name is {environment!r}, whose network has no encoder"
    elif policy.kind == "linear":
        reason = "policy.kind is linear, which has no encoder"
    elif learner != "ppo":
        reason = f"training.learner is {learner}, which needs the encoder in every pass"
    if reason:
        raise ValueError(f"ppo.encoder_epochs is {given}, but {reason}; leave it out")


def check_base(
    policy: PolicyConfig, environment: str, actions: str, levels: Sequence[float], sizing: list[str]
) -> None:
    """Refuses keys that do not fit a base, or the want of one.

    Args:
      policy: its section.
      environment: `env.name`.
      actions: `env.actions`.
      levels: `env.levels`.
      sizing: kinds of `sizing`, in order.

    Raises:
      ValueError: names the key, its value and what is allowed.
    """
    if policy.start is not None:
        _check_start(policy.start.kind, policy, environment, actions, sizing)
    if policy.base is None:
        if policy.tilt != "add":
            raise ValueError(f"policy.tilt is {policy.tilt}, but there is no policy.base to tilt around")
        return
    if environment != "trading":
        raise ValueError(f"policy.base is {policy.base.kind}, but env.name is {environment!r}; leave it out")
    if actions in ("continuous", "band") and levels[0] != -levels[-1]:
        raise ValueError(
            f"env.levels {list(levels)} must reach as far down as up for policy.base, so that the middle is no tilt"
        )
    if "book" in sizing:
        raise ValueError("sizing names book, but policy.base is a book of its own; use one of them")
    shares = next((kind for kind in sizing if kind in ("kelly", "risk_units")), None)
    if policy.tilt == "scale" and shares is not None:
        raise ValueError(f"sizing names {shares}, but policy.tilt scale needs no unit; leave it out")


def _check_start(start: str, policy: PolicyConfig, environment: str, actions: str, sizing: list[str]) -> None:
    """A ValueError where a network cannot be fitted to decisions."""
    if environment != "trading":
        raise ValueError(f"policy.start is {start}, but env.name is {environment!r}; leave it out")
    if policy.base is not None and policy.tilt == "scale":
        raise ValueError(f"policy.start is {start}, which fits tilts that are added; policy.tilt is scale")
    if actions != "continuous":
        raise ValueError(f"policy.start is {start}, which fits targets; env.actions is {actions}, use continuous")
    other = next((kind for kind in sizing if kind in ("kelly", "book")), None)
    if other is not None:
        raise ValueError(f"policy.start fits targets, but sizing names {other}, which reads decisions otherwise")
