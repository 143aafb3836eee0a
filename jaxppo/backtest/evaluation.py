"""Out-of-sample evaluation: the deterministic policy and its baselines over one period, summary and report."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxppo.backtest.agent_account import agent_of, effects_of, rules_of, trade
from jaxppo.backtest.attainable import attainable_figures, attainable_sentence
from jaxppo.backtest.baselines import configured_baselines
from jaxppo.backtest.beside import (
    UNGATED,
    UNTRAINED,
    columns_width,
    detectable_sentence,
    difference_figures,
    key_numbers,
    unlearned_sentences,
)
from jaxppo.backtest.by_regime import account_of, figures_by_regime, regimes_over
from jaxppo.backtest.ended import ended_positions, ended_sentences
from jaxppo.backtest.estimated_spread import estimated_spread_sentences
from jaxppo.backtest.inspection import Inspection
from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.mask_attribution import MaskEffect
from jaxppo.backtest.performance import performance_figures, performance_of
from jaxppo.backtest.result import ledger_figures
from jaxppo.backtest.shipping import Ship, gated, ship_of, shipped
from jaxppo.config import dump_config
from jaxppo.envs.execution.fill_time import volume_sentences
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.report import capacity as capacity_section
from jaxppo.report import monitor as monitored
from jaxppo.report.drawdowns import drawdown_rows
from jaxppo.report.page import ReportData, write_report
from jaxppo.report.results import Performance, Selected
from jaxppo.report.selection import luck_warnings
from jaxppo.run.build import strategy_sentences
from jaxppo.run.data import full_position
from jaxppo.run.periods import Period, time_of
from jaxppo.run.progress import announce
from jaxppo.run.setup import Setup
from jaxppo.run.start import started_policy
from jaxppo.run.title import title_of_run
from jaxppo.statistics import sharpe_error

BY_REGIME = 1000
"""What the key of the intervals by regime is folded with; the others are numbered from 0."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results over one period.

    Attributes:
      summary: the `out_of_sample` entry of summary.json.
      ledgers: agent first, then the baselines; NumPy arrays.
      times: `[n + 1]` bar times of the equity marks, empty for a market without times.
      masks: what each mask did; None where that is not known.
      regimes: `[n + 1]` int, the regime of the market known at each mark, see `jaxppo.backtest.by_regime`.
      performance: when and with what the agent earned.
    """

    summary: dict[str, Any]
    ledgers: dict[str, Ledger]
    times: np.ndarray
    masks: dict[str, MaskEffect] | None
    regimes: np.ndarray
    performance: Performance

    @property
    def baselines(self) -> dict[str, np.ndarray]:
        """Name -> `[n]` simple return per bar of each baseline."""
        return {name: ledger.returns for name, ledger in self.ledgers.items() if name != "agent"}


def quick_score(
    setup: Setup,
    network: ActorCritic,
    net: Params,
    period: str,
    record: Callable[[np.ndarray], Any] = lambda returns: None,
) -> dict[str, float]:
    """Annual Sharpe ratio with its standard error, total return and annual turnover of the policy.

    One that never trades scores 0, without a standard error.

    Args:
      setup: market, environment and configuration.
      network: encoder and head.
      net: its parameters.
      period: of the setup.
      record: called with the returns `[n]`, as long as they are finite.
    """
    ledger = jax.device_get(trade(setup, agent_of(setup, network, net), period))
    returns, turnover = ledger.returns, np.asarray(ledger.turnover, np.float64)
    if np.isfinite(returns).all():
        record(returns)
    spread = returns.std(ddof=1)
    sharpe = returns.mean() / spread * setup.periods_per_year**0.5 if spread > 0 else 0.0
    return {
        "sharpe": float(sharpe),
        **annual_error(returns, setup.periods_per_year),
        "total_return": float(ledger.equity[-1] / ledger.equity[0] - 1.0),
        "turnover": float(turnover.mean()) * setup.periods_per_year,
    }


def annual_error(returns: np.ndarray, periods: float) -> dict[str, float]:
    """Standard error of an annual Sharpe ratio, of independent bars, as `sharpe_error`; empty where it has none.

    Args:
      returns: `[n]` simple return per bar.
      periods: bars per year.
    """
    if len(returns) < 3 or not np.isfinite(returns).all() or np.ptp(returns) == 0.0:
        return {}
    error = float(sharpe_error(returns)) * periods**0.5
    return {"sharpe_error": error} if np.isfinite(error) else {}


def evaluate(
    setup: Setup,
    network: ActorCritic,
    net: Params,
    period: str = "test",
    ship: Ship | None = None,
    *,
    changed: bool = False,
) -> Evaluation:
    """Evaluates the agent, beside the untrained one and the baselines, over a period, with intervals.

    With `evaluation.ship` base_unless the agent is what the evidence on the validation lets trade.

    Args:
      setup: of the run.
      network: encoder and head.
      net: their parameters.
      period: of the setup.
      ship: the evidence; None weighs it where the configuration asks for it.
      changed: whether the setup is not that of training: what `policy.start` led to is not known then.
    """
    announce("evaluating")
    policy = agent_of(setup, network, net)
    beside = {}
    if setup.config.policy.start is None or not changed:
        beside[UNTRAINED] = trade(setup, policy._replace(params=started_policy(setup)[1]), period)
    ship = ship_of(setup, network, net) if ship is None and gated(setup) else ship
    if ship is not None and ship.share == 0.0:
        beside[UNGATED] = trade(setup, policy, period)
    policy = shipped(setup, network, net, ship)
    effects = effects_of(setup, policy, period)
    result = evaluate_ledger(setup, trade(setup, policy, period), setup.periods[period], effects, beside)
    if ship is not None:
        result.summary["ship"] = ship.figures
        said = ship.sentence(setup.config.evaluation.ship_t)
        result.summary["notes"] = [said, *result.summary.get("notes", ())]
    return result


def evaluate_ledger(
    setup: Setup,
    agent: Ledger,
    where: Period,
    effects: dict[str, MaskEffect] | None,
    beside: Mapping[str, Ledger] = MappingProxyType({}),
) -> Evaluation:
    """Evaluates what an agent did over a period, beside the baselines, with intervals.

    Args:
      setup: of the run.
      agent: its ledger.
      where: the period.
      effects: mask -> what it did; None where that is not known.
      beside: name -> ledger of what else it is compared with.
    """
    announce("evaluating: figures and intervals")
    chosen, monitor = setup.config.evaluation, setup.monitor
    baselines = {**configured_baselines(setup, rules_of(setup), where), **beside}
    # One by one: a tree sorts its names, and the agent comes first.
    ledgers = {name: jax.device_get(ledger) for name, ledger in {"agent": agent, **baselines}.items()}
    key = jax.random.key(setup.config.seed)
    numbers = {"agent": (0, 0), **{name: key_numbers(place) for place, name in enumerate(baselines)}}
    figures = {}
    for name, ledger in ledgers.items():
        figures[name] = ledger_figures(
            ledger,
            periods=setup.periods_per_year,
            key=jax.random.fold_in(key, numbers[name][0]),
            n_resamples=chosen.bootstrap_resamples,
            level=chosen.level,
        )
        ended = ended_positions(ledger, setup.market, where.first, setup.env.fill_rule.delisting)
        figures[name] |= {"ended_positions": ended} if ended else {}
    for name in baselines:
        difference_key = jax.random.fold_in(key, numbers[name][1])
        figures[name] |= difference_figures(setup, ledgers["agent"], ledgers[name], difference_key)
    times = setup.market.info.timestamps
    times = times[where.first : where.last + 1] if len(times) else times
    regimes = regimes_over(setup, where)
    for name, found in _by_regime(setup, ledgers, regimes, jax.random.fold_in(key, BY_REGIME)).items():
        figures[name]["by_regime"] = found
    fallen = drawdown_rows(ledgers["agent"].equity, times, regimes, first=where.first)
    if monitor.limits:
        closes = [time_of(setup.market, bar) for bar in range(where.first + 1, where.last + 1)]
        for name, ledger in ((name, ledger) for name, ledger in ledgers.items() if ledger.monitored):
            figures[name]["monitor"] = monitored.monitored_figures(monitor, ledger.monitored, closes)
        figures["agent"]["stopped"] = monitored.stopped_by(monitor, ledgers["agent"].monitored, closes)
    span = {"first_bar": time_of(setup.market, where.first), "last_bar": time_of(setup.market, where.last)}
    baseline = {name: figures[name] for name in baselines}
    masks = {"masks": {name: dataclasses.asdict(effect) for name, effect in effects.items()}} if effects else {}
    position = full_position(setup.config, setup.market.n_assets)
    notes = volume_sentences(setup.market, position, setup.config.costs.participation_limit)
    notes += estimated_spread_sentences(ledgers["agent"], setup.market)
    notes += (*unlearned_sentences(ledgers), *strategy_sentences(setup.config))
    attainable = attainable_figures(setup.config, figures["agent"])
    noted: dict[str, Any] = {"attainable": attainable} if attainable else {}
    notes += (attainable_sentence(attainable),) if attainable else ()
    noted |= {"notes": list(notes)} if notes else {}
    performance = performance_of(
        ledgers["agent"], symbols_of(setup), times, periods=setup.periods_per_year, level=chosen.level
    )
    earned = performance_figures(performance, float(ledgers["agent"].equity[0]))
    summary = {**figures["agent"], **span, **noted, **earned, **masks, "drawdowns": fallen, "baseline": baseline}
    return Evaluation(summary, ledgers, times, effects, regimes, performance)


def symbols_of(setup: Setup) -> tuple[str, ...]:
    """Names of the A assets, made up where the market has none."""
    return setup.market.info.symbols or tuple(f"asset {number}" for number in range(setup.market.n_assets))


NOTHING: Mapping[str, Any] = MappingProxyType({})


class ReportExtras(NamedTuple):
    """What a report shows beside an evaluation.

    Attributes:
      selection: the entry of summary.json.
      constraints: the entry of summary.json.
      training: rows of `metrics.jsonl`.
      inspection: what the policy looks at.
      sections: more sections, title -> HTML.
      warnings: more of them.
      title: of the report; empty: the folder it is written to, prices and changed costs.
      selected: what selected the checkpoint.
    """

    selection: Mapping[str, Any] = NOTHING
    constraints: Mapping[str, Mapping[str, Any]] = NOTHING
    training: Sequence[dict[str, Any]] = ()
    inspection: Inspection | None = None
    sections: Mapping[str, str] = NOTHING
    warnings: tuple[str, ...] = ()
    title: str = ""
    selected: Selected = Selected()


def report(setup: Setup, result: Evaluation, path: pathlib.Path, extras: ReportExtras | None = None) -> None:
    """Writes `report.html`.

    Args:
      setup: of the evaluation.
      result: the evaluation.
      path: of the file.
      extras: what is shown beside it.
    """
    announce("report")
    extras = ReportExtras() if extras is None else extras
    figures = {"agent": result.summary, **result.summary["baseline"]}
    names: tuple[str, ...] = ("sharpe", "sortino", "calmar", "max_drawdown", "cvar_95", "win_rate", "trade_win_rate")
    names += ("trades", "open_trades", "total_return", "annual_return", "volatility", "turnover", "costs")
    agent = result.ledgers["agent"]
    costs = {kind: np.asarray(getattr(agent.costs, kind)) for kind in ("commission", "spread", "slippage", "impact")}
    write_report(
        path,
        ReportData(
            title=extras.title or title_of_run(path.parent.resolve().name, setup.config),
            timestamps=result.times,
            equity={name: np.asarray(ledger.equity, np.float64) for name, ledger in result.ledgers.items()},
            weights=np.asarray(agent.weights),
            symbols=symbols_of(setup),
            costs={**costs, "financing": np.asarray(agent.financing)},
            training=list(extras.training),
            metrics={who: {name: row[name] for name in names} for who, row in figures.items()},
            intervals={who: {"sharpe": tuple(row["sharpe_ci"])} for who, row in figures.items()},
            sharpe_differences={
                name: tuple(row["sharpe_difference_ci"])
                for name, row in result.summary["baseline"].items()
                if None not in row["sharpe_difference_ci"]
            },
            detectable={name: row["detectable"] for name, row in result.summary["baseline"].items()},
            level=setup.config.evaluation.level,
            data_report=setup.market.info.report,
            config_yaml=dump_config(setup.config),
            warnings=(*extras.warnings, *_warnings(setup, result, extras.selection)),
            told=_told(result),
            performance=result.performance,
            inspection=extras.inspection,
            masks=result.masks,
            monitored={who: row["monitor"] for who, row in figures.items() if "monitor" in row},
            stopped=result.summary.get("stopped"),
            constraints=extras.constraints,
            selection=extras.selection,
            sections=extras.sections,
            capacity=result.summary.get("capacity"),
            by_regime={who: row["by_regime"] for who, row in figures.items()},
            regimes=result.regimes,
            selected=extras.selected,
            unlearned=bool(unlearned_sentences(result.ledgers)),
        ),
    )


def describe(summary: dict[str, Any]) -> str:
    """The out-of-sample figures as a short table; takes the `out_of_sample` entry."""
    lines = [f"out of sample, {summary['n_bars']} bars, {summary['first_bar']} to {summary['last_bar']}"]
    width = columns_width(summary["baseline"], 18)
    lines.append(f"{'':{width}}{'Sharpe (interval)':>28}{'return':>10}{'drawdown':>10}{'turnover/y':>12}{'costs':>9}")
    for name, row in {"agent": summary, **summary["baseline"]}.items():
        low, high = row["sharpe_ci"]
        interval = "" if low is None or high is None else f" ({_number(low)} .. {_number(high)})"
        sharpe = f"{_number(row['sharpe'])}{interval}"
        lines.append(
            f"{name:{width}}{sharpe:>28}{row['total_return']:>10.1%}{row['max_drawdown']:>z10.1%}"
            f"{row['turnover']:>12.1f}{row['costs']:>9.2%}"
        )
    lines += [line for line in (detectable_sentence(summary),) if line]
    lines += summary.get("notes", ())
    if "monitor" in summary:
        lines.append(monitored.one_line(summary["monitor"], summary["stopped"]))
    if "capacity" in summary:
        lines.append(capacity_section.one_line(summary["capacity"]))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _told(result: Evaluation) -> tuple[str, ...]:
    """What follows the verdict, and warns of nothing."""
    known = result.summary.get("attainable")
    return (attainable_sentence(known),) if known else ()


def _warnings(setup: Setup, result: Evaluation, selection: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What a reader must know before believing the figures."""
    found = []
    if setup.env.fill_rule.fill_price == "decision_close":
        found.append(
            "Fills use the close that the decision has already seen (env.fill_price: decision_close). No market offers "
            "that price: these results are not attainable."
        )
    found += [note for note in result.summary.get("notes", ()) if note not in _told(result)]
    if result.ledgers["agent"].liquidated:
        found.append("The agent's account was liquidated; it stays out of the market from then on.")
    found += ended_sentences(result.summary.get("ended_positions", ()))
    found += monitored.breaches(result.summary.get("monitor", {}), result.summary["n_bars"])
    if result.summary.get("stopped"):
        found.append(monitored.stop_sentence(result.summary["stopped"]))
    if selection:
        found += luck_warnings(selection, setup.config.evaluation.level)
    return tuple(found)


def _by_regime(
    setup: Setup, ledgers: Mapping[str, Ledger], regimes: np.ndarray, key: jax.Array
) -> dict[str, dict[str, Any]]:
    """Strategy -> regime -> figures; `regimes` `[n + 1]` at the marks. Consumes `key`."""
    chosen = setup.config.evaluation
    return figures_by_regime(
        key,
        {name: account_of(ledger) for name, ledger in ledgers.items()},
        regimes[:-1],
        periods=setup.periods_per_year,
        n_resamples=chosen.bootstrap_resamples,
        level=chosen.level,
    )
