"What the site knows: histories of bars, seen through a clock."

from datetime import date
from pathlib import Path

import pandas as pd

from .faults import Faults

SNAPSHOT = Path(__file__).with_name("snapshot.parquet")
PRICES = ["open", "high", "low", "close", "adj_close"]
CELLS = [*PRICES, "volume"]


class Market:
    "Bars up to the clock, and nothing later. `clock` may be moved at any time."

    def __init__(self, snapshot: Path = SNAPSHOT, clock: date | None = None, faults: Faults | None = None):
        bars = pd.read_parquet(snapshot)
        self.clock, self.faults = clock or bars["date"].max().date(), faults or Faults()
        self._bars = {ticker: b.reset_index(drop=True) for ticker, b in bars.groupby("ticker")}

    def tickers(self, as_of: date | None = None) -> list[str]:
        "Those that have traded by the clock."
        return [t for t in self._bars if not self.history(t, as_of=as_of).empty]

    def history(self, ticker: str, start: date | None = None, end: date | None = None,
                as_of: date | None = None) -> pd.DataFrame:
        "Bars from `start` to `end`, as known at the clock, or at `as_of` if that is earlier. KeyError: no such ticker."
        bars, clock = self._bars[ticker], min(self.clock, as_of or self.clock)
        first = 0 if start is None else bars["date"].searchsorted(pd.Timestamp(start))
        bars = bars[first : bars["date"].searchsorted(pd.Timestamp(min(clock, end or clock)), side="right")]
        if self.faults.restate and ticker == self.faults.restate[0] and clock >= self.faults.restate[2]:
            bars, before = bars.copy(), bars["date"] < pd.Timestamp(self.faults.restate[2])
            bars.loc[before, PRICES] = (bars.loc[before, PRICES] / self.faults.restate[1]).round(6)
        return bars


def cells(bars: pd.DataFrame, malformed: tuple[str, date] | None = None) -> list[list[str]]:
    "Rows of text: date, prices with all their decimals, volume; unknown values are empty."
    columns = [bars["date"].dt.strftime("%Y-%m-%d")]
    for name in CELLS:
        form = (lambda v: f"{v:.6f}".rstrip("0").rstrip(".")) if name in PRICES else (lambda v: f"{int(v)}")
        columns.append(["" if pd.isna(v) else form(v) for v in bars[name]])
    rows = [list(row) for row in zip(*columns, strict=True)]
    for row in rows:
        if malformed and row[0] == str(malformed[1]) and bars["ticker"].iloc[0] == malformed[0]:
            for name in ("close", "adj_close"):
                row[1 + CELLS.index(name)] = "n/a"
    return rows
