"""All masks on real prices: how often each bound, by regime, and what became of the limits at every bar.

    python -m benchmarks.limits PRICES [--calendar XNYS] [--steps 300000] [--actions discrete|continuous|hierarchical]

Trains under every mask that the bars allow (trading hours with --calendar, on bars within a day), then follows two
accounts through the test period: the trained agent's, and that of one who always wants the largest long position in
everything, which presses on every limit. At each close every limit is measured from what the masks said there, by sums
in double precision that share no code with what enforces them: what the decision uses of it, what holding would use,
and what the position uses. A decision that uses more than the limit and more than holding is a breach, unless that is
the doing of reductions, which are always allowed, also where they are trades or take a hedge away: then it would not be
one with these positions held. A position can be beyond its limit without a breach: prices move it, and its fill comes
after the decision. Excesses are weights (fractions of equity); volatilities per year.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxppo
from benchmarks.recording import record
from jaxppo import envs
from jaxppo.backtest import SavedRun, load_run
from jaxppo.backtest.agent_account import limits_of
from jaxppo.backtest.evaluation import quick_score
from jaxppo.envs.execution.limits import GrossBudgets, Limits, NetBudget, constrain, intersection, no_limits
from jaxppo.envs.execution.portfolio import open_portfolio, orders_to_target, weights_of
from jaxppo.masks.transform import apply_each
from jaxppo.policy.agent import agent, decide
from jaxppo.policy.encoding import encode_bars
from jaxppo.policy.protocol import Observed

SLACK, LOUD = 1e-4, 100.0
BUDGETS = {"risk_budget": ("gross", "groups", "net", "concentration", "volatility"), "turnover": ("trades",)}


def all_masks(symbols: tuple[str, ...], calendar: str | None) -> list[Any]:
    """Every mask, with limits of the size that a cautious user would set for a book of this many assets."""
    half = list(symbols[: len(symbols) // 2])
    even = 1.0 / len(symbols)
    masks: list[Any] = [
        {"regime": {"crisis": [0.0, 0.5], "bear": [-0.5, 0.5]}},
        {"volatility_cap": {"target": round(0.5 * even, 6), "force": 1.2}},
        {
            "risk_budget": {
                "asset": 1.8 * even,
                "gross": 0.9,
                "groups": {"first half": {"symbols": half, "limit": 0.5}},
                "net": [-0.3, 0.7],
                "concentration": 1.5 * even,
                "volatility": 0.15,
                "drawdown_budget": 0.3,
                "force": 1.2,
            }
        },
        {"liquidity": {"spread": 0.001, "participation": 0.05}},
        {"turnover": {"limit": 2.0, "window": 20}},
        {"holding_period": {"minimum": 3, "maximum": 100}},
        {"halt": {"move": 0.05, "bars": 3}},
        {"no_short": {}},
    ]
    session = {"session": {"calendar": calendar, "close_minutes": 60.0, "flat_minutes": 60.0}}
    return masks if calendar is None else [*masks, session]


def configuration(path: str, actions: str, steps: int, calendar: str | None) -> jaxppo.Config:
    """The quick start's network and learner, with longs and shorts twice as large as an even split."""
    symbols = envs.load_market(path).info.symbols
    return jaxppo.Config.model_validate(
        {
            "data": {"path": path, "train": 0.6, "validation": 0.2},
            "features": {"groups": ["price", "volume", "technical", "volatility", "calendar", "regime"]},
            "regimes": {"kind": "rules"},
            "env": {
                "actions": actions,
                "levels": [-1.0, -0.5, 0.0, 0.5, 1.0],
                "position_limit": 2.0 / len(symbols),
                "start": "random",
            },
            "masks": all_masks(symbols, calendar),
            "policy": {"kind": "transformer", "width": 32, "layers": 1, "heads": 4, "window": 16},
            "ppo": {"paths": 16, "portfolios": 4, "chunk": 64, "minibatches": 4},
            "training": {"steps": steps, "evaluate_every": 1000},
        },
        strict=False,
    )


def greedy(run: SavedRun) -> Any:
    """Network parameters that prefer the largest long position that there is, then the next smaller one."""
    net, action = jax.tree.map(jnp.asarray, run.params), run.setup.action
    actor = net["head"]["actor"]
    preference = jnp.arange(actor["bias"].shape[0], dtype=jnp.float32)
    if action.kind == "hierarchical":  # numbered within directions, then within sizes
        bucket = net["head"]["bucket"]
        bucket["bias"] = bucket["bias"].at[: action.n_buckets].add(LOUD * jnp.arange(action.n_buckets))
    actor["bias"] = actor["bias"] + LOUD * preference
    return net


def follow(run: SavedRun) -> dict[str, Any]:
    """The account through the test period: weights `[n, A]` (position, keep, decision) and the limits at each close."""
    env, params, where = run.setup.env, run.setup.params, run.setup.periods["test"]
    decision, n_bars = run.setup.config.evaluation.decision, where.n_bars

    @jax.jit
    def whole(net: Any) -> dict[str, Any]:
        encoding = agent(run.network, net, env, decision).encoding
        prepared = encode_bars(encoding, net, encoding.inputs(params), jnp.int32(where.first), n_bars)

        def one_bar(carry: Any, xs: Any) -> Any:
            portfolio, state = carry
            bar, ready = xs
            mask_row, now = (jax.tree.map(lambda x: x[bar], x) for x in (params.masks, params.market.tradable))
            each, state = apply_each(env.masks.parts, state, mask_row, portfolio)
            limits = no_limits(env.n_assets)
            for one in each:
                limits = intersection(limits, one)
            constraint = constrain(limits, portfolio, now, bar)
            seen = env.observe_portfolio(bar, portfolio, now, constraint)
            observed = Observed(portfolio, (), seen, constraint, ready)
            chosen, held = env.feasible(portfolio, *decide(run.network, env, net, observed, decision), constraint)
            orders = orders_to_target(portfolio, chosen, held | ~now, params.costs)
            after, _, _ = env.fill(portfolio, orders, params.table[bar + 1], params.costs)
            line = {
                "position": weights_of(portfolio),
                "keep": constraint.feasible_hold,
                "decision": chosen,
                "limits": each,
            }
            return (after, state), line

        start = open_portfolio(params.market.close[where.first], params.initial_cash, env.fill_rule)
        xs = (where.first + jnp.arange(n_bars), prepared)
        return jax.lax.scan(one_bar, (start, env.mask_start()), xs)[1]

    return jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(whole(run.params)))


def excesses(name: str, limits: Limits) -> dict[str, Any]:
    """limit -> function of weights `[n, A]` to how far `[n, ...]` they are beyond it."""
    low, high = np.minimum(limits.low, 0.0), np.maximum(limits.high, 0.0)
    found = {}
    if np.isfinite(low).any() or np.isfinite(high).any():
        found["each asset"] = lambda w: np.maximum(np.maximum(w - high, low - w), -1.0)
    for label, budget in zip(BUDGETS.get(name, ()), limits.budgets, strict=True):
        if isinstance(budget, GrossBudgets):
            origin = 0.0 if budget.origin is None else budget.origin
            found[label] = lambda w, b=budget, o=origin: np.einsum("nga,na->ng", b.member, np.abs(w - o)) - b.limit
        elif isinstance(budget, NetBudget):
            found[label] = lambda w, b=budget: np.maximum(w.sum(axis=-1) - b.high, b.low - w.sum(axis=-1))[:, None]
        else:
            found[label] = lambda w, b=budget: (
                np.sqrt(np.maximum(np.einsum("na,nab,nb->n", w, b.matrix, w), 0.0)) - np.sqrt(b.limit)
            )[:, None]
    return found


def audit(run: SavedRun) -> dict[str, dict[str, float]]:
    """Every limit of every mask over the test period."""
    seen = follow(run)
    where = run.setup.periods["test"]
    tradable = np.asarray(run.setup.market.tradable)[where.first : where.first + where.n_bars]
    position, keep, decision = (seen[name] for name in ("position", "keep", "decision"))
    undone = np.where((np.abs(decision) < np.abs(keep)) & (decision * keep >= 0), keep, decision)
    table = {}
    for part, limits in zip(run.setup.env.masks.parts, seen["limits"], strict=True):
        for label, excess in excesses(part.name, limits).items():
            decided, held, now = excess(decision), excess(keep), excess(position)
            least = np.maximum(held, 0.0) + SLACK
            more, increased = decided > least, excess(undone) > least
            each = tradable if label == "each asset" else np.ones_like(more)
            table[f"{part.name}, {label}"] = {
                "breaches": int((more & increased & each).sum()),
                "by_reductions": int((more & ~increased & each).sum()),
                "decisions": int(each.sum()),
                "decisions_at_the_limit": float((np.abs(decided) < 1e-3)[each.astype(bool)].mean()),
                "positions_beyond": float((now > SLACK)[each.astype(bool)].mean()),
                "largest_excess": max(float(now[each.astype(bool)].max()), 0.0),
            }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prices")
    parser.add_argument("--calendar")
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--actions", default="discrete")
    chosen = parser.parse_args()
    config = configuration(chosen.prices, chosen.actions, chosen.steps, chosen.calendar)
    with tempfile.TemporaryDirectory() as folder:
        result = jaxppo.train(config, output=pathlib.Path(folder) / "run")
        run = load_run(result.folder)
    agents = {}
    for name, params in {"trained": run.params, "always long": greedy(run)}.items():
        own = dataclasses.replace(run, params=params)
        figures = quick_score(run.setup, run.policy, params, "test")
        effects = limits_of(run.setup, run.policy, params, "test")
        agents[name] = {
            "account": figures,
            "limits": audit(own),
            "masks": {mask: dataclasses.asdict(effect) for mask, effect in effects.items()},
        }
        print(name, figures)
        for kind in ("limits", "masks"):
            for row, values in agents[name][kind].items():
                print(f"  {row:28s}", values)
    name = f"limits_{pathlib.Path(chosen.prices).stem}_{chosen.actions}"
    print(record(name, {"agents": agents, "configured": [mask.model_dump(exclude_none=True) for mask in config.masks]}))


if __name__ == "__main__":
    main()
