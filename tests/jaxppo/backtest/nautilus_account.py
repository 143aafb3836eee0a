"""An account that nautilus_trader keeps, event by event: closes at which orders are sent, opens at which they fill."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import numpy as np
import pandas as pd
from nautilus_trader.backtest.engine import BacktestEngine
from nautilus_trader.backtest.models import FillModel, LatencyModel, MakerTakerFeeModel
from nautilus_trader.config import BacktestEngineConfig, LoggingConfig, RiskEngineConfig
from nautilus_trader.model.currencies import Currency
from nautilus_trader.model.data import Bar, BarType, QuoteTick
from nautilus_trader.model.enums import AccountType, AssetClass, CurrencyType, OmsType, OrderSide
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import Cfd
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.trading.strategy import Strategy

PRECISION = 12
"""Decimals of prices, quantities and money; what is given is rounded to them."""
DAY = 86_400 * 10**9
OPEN = DAY // 2
"""Nanoseconds from one close to the next, and to the open between them; the first close is at `DAY`."""
DEPTH = 1e9
"""Shares at the quotes."""
VENUE = Venue("SIM")


@dataclasses.dataclass(frozen=True)
class Kept:
    """What an account did over n bars.

    Attributes:
      fills: columns `bar` (1 to n), `asset`, `filled` (shares, signed), `price`, `commission` (currency), in order.
      equity: `[n]` currency at the close of each bar.
    """

    fills: pd.DataFrame
    equity: np.ndarray


class Orders(Strategy):
    """Sends at each close the orders that were decided there, and notes what comes of them."""

    def __init__(self, instruments: list[Cfd], orders: np.ndarray):
        super().__init__()
        self.instruments, self.orders = instruments, orders
        self.fills: list[tuple[int, int, float, float, float]] = []
        self.equity: list[float] = []

    def on_start(self) -> None:
        for instrument in self.instruments:
            self.subscribe_bars(bar_type(instrument))

    def on_bar(self, bar: Bar) -> None:
        number, asset = bar.ts_event // DAY - 1, self.asset(bar.bar_type.instrument_id)
        if number < len(self.orders) and self.orders[number, asset] != 0:
            shares = self.orders[number, asset]
            side = OrderSide.BUY if shares > 0 else OrderSide.SELL
            instrument = self.instruments[asset]
            self.submit_order(self.order_factory.market(instrument.id, side, quantity(abs(shares))))
        if asset == len(self.instruments) - 1:
            currency = self.instruments[0].quote_currency
            profit = self.portfolio.unrealized_pnls(VENUE).get(currency)
            balance = self.portfolio.account(VENUE).balance_total(currency)
            self.equity.append(float(balance) + (0.0 if profit is None else float(profit)))

    def on_order_filled(self, event) -> None:
        sign = 1.0 if event.order_side == OrderSide.BUY else -1.0
        bar, asset = event.ts_event // DAY, self.asset(event.instrument_id)
        self.fills.append((bar, asset, sign * float(event.last_qty), float(event.last_px), float(event.commission)))

    def asset(self, instrument_id: InstrumentId) -> int:
        return int(instrument_id.symbol.value)


def keep_account(
    bars: dict[str, np.ndarray], orders: np.ndarray, *, cash: float, commission_rate: float, latency_bars: int = 1
) -> Kept:
    """Trades orders at opens of later bars, from a flat start.

    Each bar is a quote at its open, a quote at its close and the bar itself. An order is sent when the bar of its
    decision is there, and takes a latency that lets it arrive at the exchange at the open, `latency_bars` later.

    Args:
      bars: `open`, `high`, `low`, `close`, each `[n + 1, A]`; the first decision is at the first close.
      orders: `[n, A]` shares, signed, 0 for none.
      cash: currency.
      commission_rate: fraction of notional.
      latency_bars: bars from decision to fill.
    """
    engine = BacktestEngine(
        BacktestEngineConfig(
            logging=LoggingConfig(bypass_logging=True), risk_engine=RiskEngineConfig(bypass=True), run_analysis=False
        )
    )
    currency = Currency("CUR", PRECISION, 0, "currency of the prices", CurrencyType.FIAT)
    Currency.register(currency, overwrite=True)  # one that is not known counts 8 decimals
    n_assets = orders.shape[1]
    engine.add_venue(
        venue=VENUE,
        oms_type=OmsType.NETTING,
        account_type=AccountType.MARGIN,
        starting_balances=[Money(cash, currency)],
        base_currency=currency,
        default_leverage=Decimal(1),
        fill_model=FillModel(),
        fee_model=MakerTakerFeeModel(),
        latency_model=LatencyModel((latency_bars - 1) * DAY + OPEN + n_assets),
        bar_execution=False,
    )
    instruments = [cfd(asset, currency, commission_rate) for asset in range(n_assets)]
    for instrument in instruments:
        engine.add_instrument(instrument)
    engine.add_data(events(instruments, bars))
    strategy = Orders(instruments, orders)
    engine.add_strategy(strategy)
    try:
        engine.run()
    finally:
        engine.dispose()
    fills = pd.DataFrame(strategy.fills, columns=["bar", "asset", "filled", "price", "commission"])
    return Kept(fills, np.asarray(strategy.equity[1:]))


def events(instruments: list[Cfd], bars: dict[str, np.ndarray]) -> list[QuoteTick | Bar]:
    """Opens, closes and bars in order of time; the last quote at an open is that at which orders arrive."""
    found: list[QuoteTick | Bar] = []
    for number in range(len(bars["close"])):
        begin, end = number * DAY + OPEN, (number + 1) * DAY
        if number > 0:
            found += [quote(each, bars["open"][number, i], begin + i) for i, each in enumerate(instruments)]
            found.append(quote(instruments[0], bars["open"][number, 0], begin + len(instruments)))
        found += [quote(each, bars["close"][number, i], end) for i, each in enumerate(instruments)]
        for i, each in enumerate(instruments):
            prices = (price(bars[name][number, i]) for name in ("open", "high", "low", "close"))
            found.append(Bar(bar_type(each), *prices, quantity(DEPTH), end, end))
    return found


def cfd(asset: int, currency: Currency, commission_rate: float) -> Cfd:
    """An asset of which fractions of a share can be held, long or short."""
    symbol = Symbol(str(asset))
    return Cfd(
        instrument_id=InstrumentId(symbol, VENUE),
        raw_symbol=symbol,
        asset_class=AssetClass.EQUITY,
        quote_currency=currency,
        price_precision=PRECISION,
        size_precision=PRECISION,
        price_increment=Price(10.0**-PRECISION, PRECISION),
        size_increment=Quantity(10.0**-PRECISION, PRECISION),
        margin_init=Decimal(0),
        margin_maint=Decimal(0),
        maker_fee=Decimal(str(commission_rate)),
        taker_fee=Decimal(str(commission_rate)),
        ts_event=0,
        ts_init=0,
    )


def bar_type(instrument: Cfd) -> BarType:
    return BarType.from_str(f"{instrument.id}-1-DAY-LAST-EXTERNAL")


def quote(instrument: Cfd, at: float, time: int) -> QuoteTick:
    return QuoteTick(instrument.id, price(at), price(at), quantity(DEPTH), quantity(DEPTH), time, time)


def price(value: float) -> Price:
    return Price.from_str(f"{value:.{PRECISION}f}")


def quantity(value: float) -> Quantity:
    return Quantity.from_str(f"{value:.{PRECISION}f}")
