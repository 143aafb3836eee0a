"""Is a planted signal found, in the volume and in a column of one's own, from a configuration file alone?

    python -m benchmarks.planted [--seeds 5]

Every seed is another market of `configs/planted.yaml`, whose best Sharpe ratio after costs is solved for. `volume` is
that file as it is. `own column` is a file of the same prices in which the volume is constant and the factor is a column
`score`, and the configuration names the column; the costs that the optimum is of are charged as a commission.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np
import pandas as pd
import yaml

import jaxppo
from benchmarks.against_commit import ROOT
from benchmarks.recording import record
from jaxppo.envs import simulators
from jaxppo.run.simulation import simulated_market

CONFIG = ROOT / "configs" / "planted.yaml"
FIRST_DAY = "1960-01-04"
COLUMN: dict[str, Any] = {"groups": ["price"], "columns": {"mine": ["score"]}}


def with_column(config: jaxppo.Config, folder: pathlib.Path) -> jaxppo.Config:
    """The same with the factor in a column of a file; writes the file and the configuration.

    Args:
      config: of a seed.
      folder: of the files.
    """
    market = simulated_market(config)
    factor = np.asarray(simulators.revealed_factor(market))
    columns = {name: np.asarray(getattr(market, name)) for name in ("open", "high", "low", "close")}
    days = pd.bdate_range(FIRST_DAY, periods=market.n_bars)  # the market goes on into the future, a file must not
    parts = [
        pd.DataFrame(
            {"date": days, "symbol": symbol, **{name: x[:, i] for name, x in columns.items()}, "volume": 1e6}
        ).assign(score=factor[:, i])
        for i, symbol in enumerate(market.info.symbols)
    ]
    pd.concat(parts).to_csv(folder / "prices.csv", index=False)
    simulation, tree = config.simulation, yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    del tree["simulation"]
    tree["seed"] = config.seed
    tree["data"] |= {"path": str(folder / "prices.csv")}
    tree["features"] |= COLUMN
    tree["costs"] |= {
        "commission_bps": simulation.commission_bps + 1e4 * simulation.half_spread,
        "spread_multiplier": 0.0,
    }
    (folder / "column.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return jaxppo.load_config(folder / "column.yaml")


def learned(config: jaxppo.Config, folder: pathlib.Path, best: float) -> dict[str, Any]:
    """What is reached in the test period.

    Args:
      config: of the run.
      folder: of the run.
      best: Sharpe ratio that can be reached.
    """
    result = jaxppo.train(config, output=folder, progress=False)
    assert result.summary is not None, "nothing interrupts it"
    found = result.summary["out_of_sample"]
    return {"sharpe": found["sharpe"], "sharpe_ci": found["sharpe_ci"], "share": found["sharpe"] / best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {"volume": [], "own column": []}
    for seed in range(given.seeds):
        config = jaxppo.load_config(CONFIG, ["--seed", str(seed)])
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            configs = {"volume": config, "own column": with_column(config, folder)}
            for what, one in configs.items():
                row = {"seed": seed, **learned(one, folder / what.replace(" ", "-"), config.simulation.sharpe)}
                rows[what].append(row)
                print(what, row, flush=True)
        jax.clear_caches()
    shares = {what: [row["share"] for row in found] for what, found in rows.items()}
    summary = {what: {"mean_share": float(np.mean(x)), "smallest_share": min(x)} for what, x in shares.items()}
    print(f"wrote {record('planted', {'best_sharpe': config.simulation.sharpe, 'summary': summary, 'runs': rows})}")


if __name__ == "__main__":
    main()
