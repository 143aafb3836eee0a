"""What an account's own trades do to the price of its later ones: impact that decays, and impact that stays.

Each kind of impact keeps one number per asset, `u`, the signed volume traded so far in units in which its energy is
`u^2 / 2` currency. With the depth `k = coefficient * volatility * price / normal volume` of the bar, in currency per
share and share,

    displacement of the price before a fill   D = sqrt(k) u
    cost of a fill of q shares                q (D + k q / 2) = ((u + sqrt(k) q)^2 - u^2) / 2
    after it                                  u + sqrt(k) q
    after each bar                            2^(-1 / half life) u, or u where impact stays

For a constant depth this is the linear propagator `D_{t+1} = e^{-rho} (D_t + k q_t)`, whose fills pay the mean of the
price before and after them. A cost is what a fill adds to the energy, time only takes energy away, and energy is never
negative: so whatever an account has traded, through whatever prices, volatilities and volumes, its own impact has cost
it at least nothing at every bar, and there is no round trip, nor any pump, that profits from it.

References:
  Almgren, Chriss (2000), Optimal execution of portfolio transactions (linear permanent impact).
  Gatheral (2010), No-dynamic-arbitrage and market impact (what decaying impact must satisfy).
  Huberman, Stanzl (2004), Price manipulation and quasi-arbitrage (permanent impact must be linear; a depth that changes
    in time admits manipulation if displacements are kept in currency, which is why it is their energy that is kept).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct


class Impact(struct.PyTreeNode):
    """Parameters of displacement; traceable scalars.

    Attributes:
      transient: `[]` displacement, in per-bar volatilities, by a fill as large as a bar's normal volume; it decays.
      half_life: `[]` bars in which half of it has decayed; 0 for impact on the fill itself alone.
      permanent: `[]` likewise, displacement that stays.
    """

    transient: jax.Array
    half_life: jax.Array
    permanent: jax.Array


class Displaced(struct.PyTreeNode):
    """What one account's trades have left in the market, signed, root of currency.

    Attributes:
      transient: `[A]`.
      permanent: `[A]`.
    """

    transient: jax.Array
    permanent: jax.Array


def undisplaced(price: jax.Array) -> Displaced:
    """Nothing traded yet; `price` gives shape `[A]` and dtype."""
    return Displaced(jnp.zeros_like(price), jnp.zeros_like(price))


def relax(displaced: Displaced, impact: Impact) -> Displaced:
    """Decays the displacement of prices by one bar.

    Args:
      displaced: what own trades have left in the market.
      impact: how fast it decays.
    """
    return displaced.replace(transient=displaced.transient * jnp.exp2(-1.0 / impact.half_life))


def displacement(displaced: Displaced, unit: jax.Array, impact: Impact) -> jax.Array:
    """How far the price `[A]` is from where it would be, currency per share, positive after purchases.

    Args:
      displaced: state of the account.
      unit: `[A]` depth of the bar for a coefficient of 1: `volatility * price / normal volume`, >= 0.
      impact: parameters.
    """
    kinds = [jnp.sqrt(coefficient * unit) * u for coefficient, u in _kinds(displaced, impact)]
    return functools.reduce(jnp.add, kinds)


def displace(displaced: Displaced, quantity: jax.Array, unit: jax.Array, impact: Impact) -> tuple[jax.Array, Displaced]:
    """Fills `quantity`: what the displacement costs, currency `[A]` (negative where it is sold into), and leaves.

    Args:
      displaced: state of the account before the fill.
      quantity: `[A]` shares, signed.
      unit: `[A]` as in `displacement`.
      impact: parameters.
    """
    cost, after = jnp.zeros_like(quantity), []
    for coefficient, u in _kinds(displaced, impact):
        moved = jnp.sqrt(coefficient * unit) * quantity
        cost = cost + moved * (u + 0.5 * moved)
        after.append(u + moved)
    return cost, Displaced(*after)


def _kinds(displaced: Displaced, impact: Impact) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """Coefficient and state of each kind of impact, in the order of the fields of `Displaced`."""
    return ((impact.transient, displaced.transient), (impact.permanent, displaced.permanent))
