"""Parses prices and volumes in English and in continental notation."""

from __future__ import annotations

import numpy as np
import pandas as pd

_DECIMAL_COMMA = r"-?(\d+|\d{1,3}(\.\d{3})+),\d+"
_THOUSANDS = {False: r"-?\d{1,3}(,\d{3})+(\.\d*)?", True: r"-?\d{1,3}(\.\d{3})+(,\d*)?"}
_WHOLE_OR_THREE_DECIMALS = r"-?\d{1,3}(\.\d{3})*"
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


def is_number_column(column: pd.Series) -> bool:
    """Whether the column holds numbers already, not text."""
    return pd.api.types.is_numeric_dtype(column.dtype)


def parse_numbers(column: pd.Series, *, decimal_comma: bool) -> np.ndarray:
    """Parses one column of numbers.

    Args:
      column: `[N]` numbers, or text such as `1234.5`, `$1,234.50`, `1.2M`; with `decimal_comma` `1234,5`, `1.234,50`.
      decimal_comma: whether the comma marks decimals and the dot thousands.

    Returns:
      `[N]` float64, NaN where there is no number.
    """
    if is_number_column(column):
        return column.to_numpy(np.float64, na_value=np.nan)
    text = _text(column)
    parts = text.str.extract(r"^(.*\d)([KMB])$")
    unit = parts[1].map(_UNITS).fillna(1.0).to_numpy(np.float64)
    text = text.where(parts[0].isna(), parts[0])
    grouped = text.str.fullmatch(_THOUSANDS[decimal_comma]).fillna(False)
    text = text.where(~grouped, text.str.replace("." if decimal_comma else ",", "", regex=False))
    if decimal_comma:
        text = text.str.replace(",", ".", regex=False)
    return pd.to_numeric(text, errors="coerce").to_numpy(np.float64, na_value=np.nan) * unit


def has_decimal_comma(prices: list[pd.Series]) -> bool:
    """Whether some price is written like `10,5` or `1.010,50`; for files whose cells a comma does not separate."""
    return any(_text(column).str.fullmatch(_DECIMAL_COMMA).fillna(False).any() for column in prices)


def dots_may_group_thousands(prices: list[pd.Series]) -> str | None:
    """Finds a price such as `2.006` that may mean 2006, if no other price shows what the dot means.

    None does if every price is a whole number below 1000 or has exactly three digits behind each of its dots.

    Returns:
      First such price; None if the dots must be decimal points, or if there are none.
    """
    texts = pd.concat([_text(column) for column in prices], ignore_index=True).dropna()
    texts = texts[texts != ""]
    dotted = texts[texts.str.contains(".", regex=False)]
    if dotted.empty or not texts.str.fullmatch(_WHOLE_OR_THREE_DECIMALS).all():
        return None
    return str(dotted.iloc[0])


def _text(column: pd.Series) -> pd.Series:
    return column.astype("string").str.strip().str.removeprefix("$")
