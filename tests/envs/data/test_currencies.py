"""Quote currencies: recognised in pairs of currencies, never in tickers; several in one market are refused."""

import pandas as pd
import pytest
from folders import SHARED
from hypothesis import given
from hypothesis import strategies as st
from price_tables import refusal, single

from jaxppo.config import load_config
from jaxppo.envs.data.currencies import COINS, FIAT, MAJORS, PEGS, currency_pair, is_spot_currency
from jaxppo.envs.data.load import load_market
from jaxppo.errors import DataError
from jaxppo.run.data import load_data

PAIRS = {
    "EUR USD": "EURUSD eurusd EUR/USD EUR_USD EUR-USD EUR.USD EURUSD=X C:EURUSD EURUSD_1h EURUSD60 EURUSD.FXCM",
    "USD JPY": "USDJPY USD/JPY USDJPY=X JPY=X USDJPY1440 usdjpy_m15",
    "USD TRY": "USDTRY",
    "USD CAD": "USDCAD",
    "XAU USD": "XAUUSD",
    "BTC USD": "BTC-USD BTCUSD BTC/USD X:BTCUSD BTC-USD-SWAP",
    "BTC EUR": "BTCEUR BTC-EUR",
    "BTC USDT": "BTCUSDT BTC/USDT BTC_USDT BTC-USDT-SWAP BTC/USDT:USDT BINANCE:BTCUSDT BTCUSDT.P Binance_BTCUSDT_1h",
    "BTC BUSD": "BTCBUSD",
    "ETH EUR": "ETH/EUR",
    "ETH BTC": "ETHBTC ETH/BTC",
    "ETH TRY": "ETHTRY ETH-TRY",
    "BTC RUB": "BTC/RUB",
    "DOT USD": "DOTUSD",
    "BNB USD": "BNBUSD",
    "USDC USDT": "USDCUSDT",
    "EUR USDT": "EURUSDT",
    "1000SHIB USDT": "1000SHIBUSDT",
    "NEWCOIN USD": "NEWCOIN-USD NEWCOIN/USD",
    "NEWCOIN BTC": "NEWCOIN/BTC",
}
TICKERS = """
    AAPL MSFT GOOG GOOGL AMZN META NVDA TSLA JPM BAC WFC GS XOM CVX KO PEP IBM GE GM F T VZ INTC AMD NFLX CAD CADE EURN
    USDP USO USDU USDX UUP FXE FXY FXB FXA EUO ERO EURZ CHFS NOK SEK NZD TRY ALL TOP PEN CUP GEL SOS MAD AUDC JPYW CNYA
    BRK-B BRK.B BRK/B BF-B RDS-A BAC-PL ABC-WS XYZ-U GBTC FBTC IBIT BITO BTCW BTCS ETHE ETHW BTC ETH BNB USDT USDC DAI
    TUSD SUSD XUSD WBTC STETH CBETH RETH VOD.L AET.L RY.TO SHOP.TO SAP.DE MC.PA EUR.PA ASML.AS NESN.SW 7203.T 000001.SZ
    600519.SS 0700.HK ALPHA-PA AET-L LA-V AV-L KEN-TA ^GSPC ^N225 ^STOXX50E ES=F GC=F CL=F 6E=F DX-Y.NYB DXY SPX500
    HYUNDAI INDUSTRY COUNTRY PANTRY TOPCUP ALLALL MADCAP PENCIL EUROPE us5_1d asset prices data_all my_prices_1d SIM1
    yf_EA-15m-no-bad-divs lwc_tsla_1d_hole_74d skender_penny
""".split()  # noqa: SIM905


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_are_recognised_however_vendors_write_them(pair):
    for symbol in PAIRS[pair].split():
        assert currency_pair(symbol) == tuple(pair.split()), symbol


def test_tickers_are_no_pairs():
    assert {ticker: pair for ticker in TICKERS if (pair := currency_pair(ticker)) is not None} == {}
    assert load_market({ticker: single() for ticker in TICKERS[:20]}).n_assets == 20


@pytest.mark.skipif(not (SHARED / "us88_1d.parquet").exists(), reason="the folder of external data is absent")
def test_the_stocks_of_the_external_data_are_no_pairs():
    symbols = pd.read_parquet(SHARED / "us88_1d.parquet", columns=["symbol"])["symbol"].astype(str).unique()
    assert len(symbols) == 88
    assert [symbol for symbol in symbols if currency_pair(symbol)] == []


@given(
    base=st.sampled_from(sorted(FIAT)), quote=st.sampled_from(sorted(MAJORS)), join=st.sampled_from(["", "/", "-", "_"])
)
def test_any_two_currencies_are_a_pair(base, quote, join):
    expected = None if base == quote else (base, quote)
    assert currency_pair(f"{base}{join}{quote}") == expected or (join and expected is None)
    assert is_spot_currency(f"{base}{quote}") == (base != quote)


@given(base=st.sampled_from(sorted(COINS - {"XBT"})), quote=st.sampled_from(["USD", "EUR", "USDT", "USDC"]))
def test_any_coin_in_a_currency_is_a_pair(base, quote):
    if base != quote and len(base + quote) > 5:
        assert currency_pair(base + quote) == (base, quote)
        assert currency_pair(f"{base}-{quote}") == (base, quote)
        assert not is_spot_currency(base + quote)


@given(st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=5))
def test_no_ticker_of_up_to_five_letters_names_a_currency(ticker):
    """But for those that are a coin and a quote currency, such as OPUSD."""
    pair = currency_pair(ticker)
    assert pair is None or (pair[0] in COINS and pair[1] in MAJORS | set(PEGS) | {"BTC", "XBT", "ETH", "BNB", "TRY"})


def test_prices_in_several_currencies_are_refused_in_one_line():
    message = refusal({"EURUSD": single(), "USDJPY": single(), "GBPUSD": single()})
    assert "EURUSD in USD, USDJPY in JPY; load them apart, or pass rate_column=NAME" in message
    assert "stablecoins" not in message
    crypto = refusal({"BTCUSDT": single(), "BTCEUR": single()})
    assert "BTCEUR in EUR, BTCUSDT in USDT" in crypto
    assert "stablecoins" not in crypto, "USDT for EUR is no question of a peg"
    assert load_market({"EURUSD": single(), "USDJPY": single()}, symbols=["USDJPY"]).n_assets == 1
    assert load_market({"EURUSD": single(), "GBP/USD": single(), "AAPL": single()}).n_assets == 3
    assert load_market({"ETHBTC": single(), "LTC/XBT": single()}).n_assets == 2


def test_the_line_names_the_keys_of_a_configuration(tmp_path):
    for symbol in ("EURUSD", "USDJPY"):
        single().to_csv(tmp_path / f"{symbol}_1d.csv", index=False)
    with pytest.raises(DataError, match=r"EURUSD_1d in USD, USDJPY_1d in JPY; .*pass --data\.rate_column NAME"):
        load_data(load_config(overrides=["--data.path", str(tmp_path)]))


def test_stable_coins_are_another_currency_until_somebody_says_otherwise():
    mixed = {"BTC-USD": single(), "ETHUSDT": single(), "SOLUSDC": single()}
    message = refusal(mixed)
    assert "BTC-USD in USD, ETHUSDT in USDT, SOLUSDC in USDC" in message
    assert "stablecoins_at_par=True if USDT counts as USD" in message
    assert load_market(mixed, stablecoins_at_par=True).n_assets == 3
    only_coins = {"BTCUSDT": single(), "ETHUSDC": single()}
    assert "stablecoins_at_par=True if USDT counts as USD" in refusal(only_coins)
    assert load_market(only_coins, stablecoins_at_par=True).n_assets == 2
    euro = {**mixed, "BTCEUR": single()}
    assert "BTC-USD in USD, BTCEUR in EUR" in refusal(euro, stablecoins_at_par=True)


def test_a_foreign_currency_beside_symbols_that_name_none_raises_a_question():
    def lines(*symbols):
        warnings = load_market({symbol: single() for symbol in symbols}).info.report["warnings"]
        return [line for line in warnings if "quoted in" in line]

    assert lines("AAPL", "USDJPY") == [
        "USDJPY is quoted in JPY: AAPL must be as well, or their figures cannot be added up"
    ]
    assert not lines("AAPL", "EURUSD")
    assert not lines("AAPL", "BTCUSDT")
    assert not lines("USDJPY", "EURJPY")
