"""Data sets of Hugging Face, as the Parquet files into which it converts every one of them."""

from __future__ import annotations

import io
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import pandas as pd
import pyarrow

from jaxppo.envs.data.sources.asking import Unavailable, asked
from jaxppo.envs.data.sources.request import Request
from jaxppo.errors import DataError

LISTING, HOST = "https://datasets-server.huggingface.co/parquet", "https://huggingface.co/"
TOKEN = "HF_TOKEN"
"""Environment variable with the token for data sets that are not public."""
TIMEOUT = 60.0
MOST_BYTES = 8 * 2**30
ADJUSTED = "prices as the data set has them"


def table_of(request: Request) -> pd.DataFrame:
    """All rows of a data set, of all splits of its configuration unless one is named.

    Args:
      request: what is asked for.

    Raises:
      DataError: no such data set, configuration or split; one that was not converted; or no answer.
    """
    query = urllib.parse.urlencode({"dataset": request.place})
    answer = json.loads(_fetched(f"{LISTING}?{query}", request) or b"{}")
    files = answer.get("parquet_files") or []
    if not files:
        raise DataError(f"{request.source}: Hugging Face has no Parquet files of this data set (yet)")
    if answer.get("partial"):
        raise DataError(f"{request.source}: Hugging Face has converted only a part of it; download its files yourself")
    files = _chosen(request, files)
    if sum(file.get("size", 0) for file in files) > MOST_BYTES:
        raise DataError(f"{request.source}: has more than {MOST_BYTES / 2**30:.0f} GiB; download its files yourself")
    return pd.concat([_read(file["url"], request) for file in files], ignore_index=True)


def _chosen(request: Request, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The files of the configuration, and split, that is named; without a name there must be one configuration."""
    part = dict(zip(("config", "split"), request.symbols, strict=False))
    if "config" not in part and len({file["config"] for file in files}) > 1:
        names = sorted({file["config"] for file in files})
        raise DataError(f"{request.source}: has several configurations; add one of them: :{', :'.join(names[:8])}")
    for key, name in part.items():
        names = sorted({file[key] for file in files})
        files = [file for file in files if file[key] == name]
        if not files:
            raise DataError(f"{request.source}: has no {key} {name!r}; there is {', '.join(names[:8])}")
    return files


def _read(url: str, request: Request) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(_fetched(url, request)))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{request.source}: {url.rsplit('/', 1)[-1]} is no Parquet file: {error}") from None


def _fetched(url: str, request: Request) -> bytes:
    """Content of an address; the token goes to Hugging Face alone, not to where it redirects."""
    if not url.startswith((LISTING, HOST)):
        raise DataError(f"{request.source}: refers to {url[:80]}, which is not Hugging Face")
    question = urllib.request.Request(url, headers={"User-Agent": "jaxppo"})
    if os.environ.get(TOKEN):
        question.add_unredirected_header("Authorization", f"Bearer {os.environ[TOKEN]}")

    def ask() -> bytes:
        try:
            with urllib.request.urlopen(question, timeout=TIMEOUT) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 429 or error.code >= 500:
                raise Unavailable(f"HTTP {error.code}", limited=error.code == 429) from None
            hint = f"no such data set, or not a public one ({TOKEN} in the environment gives access)"
            raise DataError(f"{request.source}: {hint}; HTTP {error.code}") from None
        except OSError as error:  # URLError, time-outs, broken connections
            raise Unavailable(str(getattr(error, "reason", error))) from None

    return asked(ask, request.source)
