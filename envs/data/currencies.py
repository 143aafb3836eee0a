"""Currencies that prices are quoted in: what symbols say of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import Rows
from jaxppo.errors import DataError


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


MAJORS = _codes(
    "USD EUR GBP JPY CHF CAD AUD NZD CNY CNH HKD SGD SEK NOK DKK PLN CZK HUF ILS KRW INR IDR THB TWD BRL MXN ZAR"
)
"""Currencies that others are quoted in on exchanges, and whose codes are no words."""
FIAT = MAJORS | _codes(
    "AED AFN ALL AMD ANG AOA ARS AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BSD BTN BWP BYN BZD CDF CLP COP CRC CUP "
    "CVE DJF DOP DZD EGP ERN ETB FJD FKP GEL GHS GIP GMD GNF GTQ GYD HNL HTG IQD IRR ISK JMD JOD KES KGS KHR KMF KPW "
    "KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MYR MZN NAD NGN NIO NPR OMR PAB "
    "PEN PGK PHP PKR PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SHP SLE SOS SRD SSP STN SYP SZL TJS TMT TND TOP TRY TTD "
    "TZS UAH UGX UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZMW"
)
METALS = _codes("XAU XAG XPT XPD")
"""Metals of the same list of codes; they are priced in currencies, and traded like them."""
PEGS = dict.fromkeys(("USDT", "USDC", "FDUSD", "PYUSD", "BUSD", "TUSD", "DAI"), "USD") | {"EURT": "EUR", "EURC": "EUR"}
"""Stable coin -> the currency that it is pegged to."""
COIN_QUOTES = ("BTC", "XBT", "ETH", "BNB")
COINS = frozenset(PEGS) | _codes(
    "BTC XBT ETH BNB XRP ADA SOL DOGE DOT LTC BCH LINK XLM XMR ETC TRX EOS UNI AVAX MATIC POL ATOM ALGO XTZ DASH ZEC "
    "NEO FIL ICP VET AAVE MKR COMP SNX YFI SUSHI CRV GRT MANA SAND AXS CHZ ENJ BAT ZRX OMG QTUM IOTA MIOTA WAVES KSM "
    "NEAR FTM ONE HBAR EGLD THETA XEM LUNA APE APT ARB OP SUI SEI TON SHIB PEPE WIF BONK INJ TIA IMX LDO RNDR FET STX "
    "KAS CRO LEO OKB WBTC STETH"
)
"""Coins whose pairs are recognised without a separator, whatever they are quoted in."""
ANY_BASE = ("USDT", "USDC", "FDUSD", "PYUSD")
"""Stable coins whose name at the end of a symbol says that the rest is a coin, known or not: no ticker ends so."""
SHORTEST_PAIR = 6
CONTRACTS = ("SWAP", "PERP", "PERPETUAL", "SPOT")
"""What exchanges of coins write after a pair."""
MOST_NAMED = 5


def currency_pair(symbol: str) -> tuple[str, str] | None:
    """Reads base and quote currency in a symbol such as `EURUSD`, `BTC-USD`, `ETH/EUR`, `BTCUSDT` or `EURUSD_1h`.

    Both halves must be currencies, or the second one a currency after a separator. A ticker of shares says nothing of
    its currency.

    Args:
      symbol: as in the data.

    Returns:
      `(base, quote)`, or None.
    """
    text = symbol.strip().upper()
    if re.fullmatch(r"[A-Z]{3}=X", text):  # how Yahoo writes the price of a dollar
        return _fiat_pair("USD", text[:3])
    words = [word for word in re.split(r"[^A-Z0-9]+", text) if word]
    for word in words:
        pair = _joined(word)
        if pair is not None:
            return pair
    for base, quote in itertools.pairwise(words):
        pair = _fiat_pair(base, quote)
        if pair is not None or (
            base != quote and ((base in COINS | FIAT and _is_quote(quote)) or (base in COINS and quote in FIAT))
        ):
            return base, quote
    after = set(words[2:])
    if len(words) in (2, 3) and after <= {*CONTRACTS, *words[1:2]} and len(words[0]) > 1:
        base, quote = words[:2]
        if quote in MAJORS | set(PEGS) or ("/" in text and _is_quote(quote)):
            return base, quote
    return None


def _joined(word: str) -> tuple[str, str] | None:
    """Base and quote of a pair without a separator; digits behind currencies are the length of a bar."""
    match = re.fullmatch(r"([A-Z]{3})([A-Z]{3})\d*", word)
    pair = _fiat_pair(*match.groups()) if match else None
    if pair is not None:
        return pair
    for quote in ANY_BASE:
        base = word.removesuffix(quote)
        if base != word and len(base) > 1 and len(word) >= SHORTEST_PAIR:
            return base, quote
    for quote in (*sorted(MAJORS), "TRY", *PEGS, *COIN_QUOTES):
        base = word.removesuffix(quote)
        if base != quote and base in COINS and word.endswith(quote):
            return base, quote
    return None


def _fiat_pair(base: str, quote: str) -> tuple[str, str] | None:
    """The pair if both are currencies, or a metal and a currency, one of them major."""
    known = base in FIAT | METALS and quote in FIAT and base != quote
    return (base, quote) if known and {base, quote} & MAJORS else None


def _is_quote(word: str) -> bool:
    return word in MAJORS or word in PEGS or word in COIN_QUOTES


def is_spot_currency(symbol: str) -> bool:
    """Whether a symbol is a pair of currencies, or a metal in one, which trade on no exchange that counts units."""
    pair = currency_pair(symbol)
    return pair is not None and pair[0] in FIAT | METALS and pair[1] in FIAT


def quote_currencies(symbols: Sequence[str], options: LoadOptions) -> dict[str, str]:
    """Finds a symbol of each quote currency that the symbols name.

    Args:
      symbols: of the market.
      options: `stablecoins_at_par` applies.

    Returns:
      Currency -> the first symbol that is quoted in it.
    """
    found: dict[str, str] = {}
    for symbol in symbols:
        pair = currency_pair(symbol)
        if pair is not None:
            quote = {"XBT": "BTC"}.get(pair[1], pair[1])
            found.setdefault(PEGS.get(quote, quote) if options.stablecoins_at_par else quote, symbol)
    return found


def check_quote_currencies(rows: Rows, options: LoadOptions) -> None:
    """Checks that all symbols which name their quote currency name the same one, unless a column of rates converts.

    Args:
      rows: of the selected symbols; gets a warning where a foreign currency stands beside symbols that name none.
      options: `rate_column` and `stablecoins_at_par` apply.

    Raises:
      DataError: prices in several currencies.
    """
    symbols = [str(name) for name in rows.frame["symbol"].cat.categories]
    found = quote_currencies(symbols, options)
    if options.rate_column is not None or not found:
        return
    if len(found) > 1:
        raise DataError(f"{rows.tables[0].name}: {_several(found)}")
    (quote, symbol), *_ = found.items()
    silent = [name for name in symbols if currency_pair(name) is None]
    if silent and PEGS.get(quote, quote) != "USD":
        shown = ", ".join(silent[:MOST_NAMED]) + (", ..." if len(silent) > MOST_NAMED else "")
        rows.warnings.append(
            f"{symbol} is quoted in {quote}: {shown} must be as well, or their figures cannot be added up"
        )


def _several(found: dict[str, str]) -> str:
    """Names the currencies, and what can be done about them; `found` as of `quote_currencies`."""
    listed = [f"{symbol} in {quote}" for quote, symbol in list(found.items())[:MOST_NAMED]]
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    remedies = ["load them apart", "pass rate_column=NAME (a column of rates into one currency)"]
    at_par = [PEGS.get(quote, quote) for quote in found]
    pegged = next((quote for quote in found if quote in PEGS and at_par.count(PEGS[quote]) > 1), None)
    if pegged is not None:
        remedies.append(f"pass stablecoins_at_par=True if {pegged} counts as {PEGS[pegged]}")
    return (
        f"prices are quoted in several currencies, which cannot be added up: {', '.join(listed)}{more}; "
        f"{', or '.join(remedies)}"
    )
