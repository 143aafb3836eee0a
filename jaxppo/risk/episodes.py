"""Running accounts of episodes: their gains and drawdowns so far, over any number of rollouts."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.risk import batch


class Episode(struct.PyTreeNode):
    """An episode up to some bar.

    Attributes:
      gain: `[]` sum of its rewards, or of its log growth.
      drawdown: `[]` largest drawdown, fraction of the peak equity, >= 0.
      bars: `[]` float32, its length.
    """

    gain: jax.Array
    drawdown: jax.Array
    bars: jax.Array


class Account(struct.PyTreeNode):
    """Episodes of one portfolio; leading axes P, K under `vmap`.

    Attributes:
      running: the episode that goes on; zeros at its start.
      last: the last episode that has ended; zeros before.
      ended: `[]` bool, whether one has ended.
    """

    running: Episode
    last: Episode
    ended: jax.Array


def open_account() -> Account:
    """Account at the start of the first episode."""
    nothing = Episode(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
    return Account(nothing, nothing, jnp.zeros((), bool))


def restart(account: Account) -> Account:
    """Begins a new episode in place of the running one; any leading axes."""
    return dataclasses.replace(account, running=jax.tree.map(jnp.zeros_like, account.running))


def follow(
    account: Account, ended: jax.Array, gain: jax.Array, drawdown: jax.Array
) -> tuple[Account, Episode, Episode]:
    """Follows an account through the S bars of a rollout.

    Args:
      account: before the rollout.
      ended: `[S]` bool, whether the episode ends with the bar.
      gain: `[S]` gain of the bar.
      drawdown: `[S]` drawdown at its close.

    Returns:
      The account after the rollout; the running episode `[S]` before and after each bar. The increments of a function
      of the episode from bar to bar add up to its value at the end less that at the start.
    """

    def one_bar(account: Account, xs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Account, tuple]:
        ended, gain, drawdown = xs
        before = account.running
        after = Episode(before.gain + gain, jnp.maximum(before.drawdown, drawdown), before.bars + 1.0)
        running = jax.tree.map(lambda x: jnp.where(ended, 0.0, x), after)
        last = jax.tree.map(lambda new, old: jnp.where(ended, new, old), after, account.last)
        return Account(running, last, account.ended | ended), (before, after)

    account, (before, after) = jax.lax.scan(one_bar, account, (ended, gain, drawdown))
    return account, before, after


class Sample(struct.PyTreeNode):
    """Finished episodes of all accounts.

    Attributes:
      episode: `[P, S + 1, K]` candidates.
      counted: `[P, S + 1, K]` bool, which of them are part of the sample.
      known: `[]` bool, whether they have ended; the same on every device.
      fresh: `[]` bool, whether one of them ended in this rollout; the same on every device.
    """

    episode: Episode
    counted: jax.Array
    known: jax.Array
    fresh: jax.Array


def sample_of(account: Account, ended: jax.Array, after: Episode) -> Sample:
    """Samples all episodes that ended in a rollout, and the last one of every account of which none did.

    So each account counts whatever the length of its episodes: short ones, such as liquidations, do not stand for all
    while the others still go on. Before any episode has ended the running ones count, and are not `known`.
    Runs under `shard_map`.

    Args:
      account: `[P, K]` after the rollout.
      ended: `[P, S, K]` bool.
      after: `[P, S, K]` running episode after each bar.
    """
    fresh, known = batch.count(ended) > 0, batch.count(account.ended) > 0
    alone = jax.tree.map(lambda last, now: jnp.where(known, last, now), account.last, account.running)
    episode = jax.tree.map(lambda x, y: jnp.concatenate([x, y[:, None]], axis=1), after, alone)
    others = jnp.where(known, account.ended & ~ended.any(axis=1), True)
    return Sample(episode, jnp.concatenate([ended, others[:, None]], axis=1), known, fresh)
