"""Checks of the keys of a quantile critic and of a distortion against each other."""

from __future__ import annotations

from jaxppo.config.learning import PPOConfig


def check_critic(quantiles: int, ppo: PPOConfig) -> None:
    """Refuses keys of a quantile critic and of a distortion that do not fit each other.

    Args:
      quantiles: `policy.quantiles`.
      ppo: hyper-parameters.

    Raises:
      ValueError: names the key, its value and what is allowed.
    """
    _check_distortion(quantiles, ppo)
    if quantiles == 1:
        if ppo.quantile_kappa:
            raise ValueError(
                f"ppo.quantile_kappa is {ppo.quantile_kappa:g}, but policy.quantiles 1 has no quantile loss"
            )
        return
    if ppo.value_loss != "squared":
        raise ValueError(
            f"ppo.value_loss is {ppo.value_loss}, an error of a single value; policy.quantiles {quantiles} has its "
            f"own, shaped by ppo.quantile_kappa: leave ppo.value_loss out"
        )
    for name, given in (("target_lambda", ppo.target_lambda is not None), ("target_n_step", ppo.target_n_step != 0.0)):
        if given:
            raise ValueError(
                f"ppo.{name} is {getattr(ppo, name):g}, but the targets of policy.quantiles {quantiles} are the "
                f"returns of the whole rest of the chunk: leave it out"
            )


def _check_distortion(quantiles: int, ppo: PPOConfig) -> None:
    kind, level = ppo.distortion, ppo.distortion_level
    if kind == "none":
        if level is not None:
            raise ValueError(
                f"ppo.distortion_level is {level:g}, but ppo.distortion is none; choose cvar, wang or power"
            )
        return
    if quantiles == 1:
        raise ValueError(
            f"ppo.distortion {kind} needs the distribution of returns: policy.quantiles must be at least 2, not 1"
        )
    if level is None:
        raise ValueError(f"ppo.distortion {kind} needs ppo.distortion_level")
    if kind == "cvar" and not 1.0 / quantiles <= level <= 1.0:
        raise ValueError(
            f"ppo.distortion_level is {level:g}; the share of the worst returns for cvar must be in "
            f"[1 / policy.quantiles, 1] = [{1.0 / quantiles:g}, 1]"
        )
    if ppo.hindsight_critic:
        raise ValueError(
            f"ppo.distortion {kind} excludes ppo.hindsight_critic: a critic that knows the market's future sees no "
            f"risk in it"
        )
