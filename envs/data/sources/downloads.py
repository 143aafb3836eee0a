"""Downloads, kept as Parquet: asked for once, and the same prices ever after.

The folder is `$JAXPPO_CACHE/prices`, else `$XDG_CACHE_HOME/jaxppo/prices`, else `~/.cache/jaxppo/prices`. A request has
a folder in it: a file for each download, named after its content, with a record beside it, and `latest.json`, the
record of the newest one. No download is overwritten, so that a run finds the prices that it was trained on.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import uuid
from typing import Any, NamedTuple

import pandas as pd

from jaxppo.envs.data.sources import alpaca_stocks, exchanges, hugging_face, yahoo
from jaxppo.envs.data.sources.request import Request
from jaxppo.envs.data.sources.series import finished
from jaxppo.errors import DataError

CACHE = "JAXPPO_CACHE"
LATEST = "latest.json"
SOURCES = {"yfinance": yahoo, "ccxt": exchanges, "alpaca": alpaca_stocks}


class Download(NamedTuple):
    """Prices that were downloaded.

    Attributes:
      file: Parquet.
      record: source, symbols, timeframe, start and end as they were asked for, time of the download (UTC), sha256 and
        name of the file, number of rows, and what the prices are adjusted by.
    """

    file: pathlib.Path
    record: dict[str, Any]


def cache_folder() -> pathlib.Path:
    """Where downloads are kept."""
    base = os.environ.get(CACHE)
    if base:
        return pathlib.Path(base).expanduser() / "prices"
    home = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(home) if home else pathlib.Path.home() / ".cache") / "jaxppo" / "prices"


def is_kept(request: Request) -> bool:
    """Whether a download is kept, so that nobody need be asked.

    Args:
      request: what is asked for.
    """
    return bool(request.pin) or (cache_folder() / request.folder / LATEST).is_file()


def download(request: Request, refresh: bool = False) -> Download:
    """Prices that are kept, or else those that the source has now.

    Args:
      request: what is asked for; with a `pin` that download, whatever newer ones there are.
      refresh: whether to ask the source although a download is kept.

    Raises:
      DataError: the source does not answer or has no such prices; the pinned download is gone; a file is damaged.
    """
    if request.pin:
        return _pinned(request)
    kept = None if refresh else _kept(cache_folder() / request.folder / LATEST)
    return kept or _downloaded(request)


def _pinned(request: Request) -> Download:
    """The download whose hash begins as the request says."""
    for record in sorted(cache_folder().glob(f"*/{request.pin[:16]}*.json")):
        found = _kept(record)
        if found is not None and found.record["sha256"].startswith(request.pin):
            return found
    raise DataError(
        f"{request.source}: the prices with the hash {request.pin[:12]} are no longer in {cache_folder()}; copy them "
        f"back, or leave #{request.pin[:12]} out (of a run: give --data {request.source}) to use those of another day"
    )


def _kept(path: pathlib.Path) -> Download | None:
    """The download of a record; None where there is none.

    Raises:
      DataError: record or file is damaged.
    """
    try:
        record = json.loads(path.read_text())
        file = path.parent / record["file"]
        damaged = hashlib.sha256(file.read_bytes()).hexdigest() != record["sha256"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, OSError):
        raise DataError(f"{path}: cannot be read; remove it, and the prices are downloaded again") from None
    if damaged:
        raise DataError(f"{file}: is not what was downloaded; remove it, and the prices are downloaded again")
    return Download(file, record)


def _downloaded(request: Request) -> Download:
    """Asks the source, and keeps what it answers."""
    if request.kind == "hf":
        frame, adjusted = hugging_face.table_of(request), hugging_face.ADJUSTED
        if frame.empty:
            raise DataError(f"{request.source}: the data set has no rows")
    else:
        frame, adjusted = _bars(request), SOURCES[request.kind].ADJUSTED
    about = {
        "source": request.source,
        "symbols": [] if request.kind == "hf" else list(request.symbols),
        "timeframe": request.timeframe and str(request.timeframe),
        "start": request.start,
        "end": request.end,
        "rows": len(frame),
        "adjusted": adjusted,
    }
    return _keep(cache_folder() / request.folder, frame, about)


def _bars(request: Request) -> pd.DataFrame:
    """Finished bars of all symbols, in long form."""
    now = _now()
    assert request.timeframe is not None
    frames, currencies = [], dict[str, str]()
    for series in SOURCES[request.kind].bars_of(request):
        part = finished(series, request.timeframe, now) if len(series.frame) else series.frame
        if part.empty:
            span = f"from {request.start or 'the beginning'} to {request.end or 'now'}"
            raise DataError(f"{request.source}: no finished bar of {series.symbol} {span}: another symbol or period?")
        frames.append(part.assign(symbol=series.symbol))
        currencies.setdefault(series.currency, series.symbol)
    if len(currencies) > 1:
        each = " and ".join(f"{symbol} in {currency or 'none'}" for currency, symbol in currencies.items())
        raise DataError(f"{request.source}: {each}: an account has one currency; load them apart")
    return pd.concat(frames, ignore_index=True)


def _now() -> pd.Timestamp:
    return pd.Timestamp.now("UTC")


def _keep(folder: pathlib.Path, frame: pd.DataFrame, about: dict[str, Any]) -> Download:
    """Writes a download and its records, each in one move."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{uuid.uuid4().hex}.part"
        try:
            frame.to_parquet(unfinished, index=False)
            sha256 = hashlib.sha256(unfinished.read_bytes()).hexdigest()
            time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            record = {**about, "time": time, "sha256": sha256, "file": f"{sha256[:16]}.parquet"}
            file = folder / record["file"]
            unfinished.replace(file)
            for name in (f"{sha256[:16]}.json", LATEST):
                unfinished.write_text(json.dumps(record, indent=1))
                unfinished.replace(folder / name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                unfinished.unlink()
    except OSError as error:
        raise DataError(f"{folder}: downloads cannot be kept there: {error.strerror}; set {CACHE}") from None
    return Download(file, record)
