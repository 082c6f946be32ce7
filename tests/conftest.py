"What all tests share: real prices from the bundled snapshot, and a small model trained on them once a session."

import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "scrapy_project/exchange/snapshot.parquet"
os.environ.setdefault("STOCKML_ROOT", str(ROOT))
os.environ.setdefault("PYTHONHASHSEED", "0")
settings.register_profile("stockml", deadline=None)  # a busy machine is no failure
settings.load_profile("stockml")
sys.path.insert(0, str(ROOT))  # serve/ is an entry point, not an installed package

from stockml.bundle import load_bundle  # noqa: E402
from stockml.config import load_params  # noqa: E402
from stockml.features import make_features  # noqa: E402
from stockml.lineage import provenance  # noqa: E402
from stockml.prices import read_bars  # noqa: E402
from stockml.split import folds  # noqa: E402
from stockml.targets import make_targets  # noqa: E402
from stockml.train import ship, walk  # noqa: E402

TICKERS = ["AAPL", "BAC", "GE", "KO", "PFE", "XOM"]


@pytest.fixture(scope="session")
def root() -> Path:
    "The checkout."
    return ROOT


@pytest.fixture(scope="session")
def snapshot() -> Path:
    "The bundled price snapshot: 20 stocks, 169,450 bars."
    return SNAPSHOT


@pytest.fixture(scope="session")
def _panel() -> pd.DataFrame:
    bars = read_bars(SNAPSHOT, tickers=TICKERS)
    return bars[bars["date"].between("1996-01-01", "2003-12-31")].reset_index(drop=True)


@pytest.fixture
def panel(_panel) -> pd.DataFrame:
    "Bars of six stocks, 1996-2003; a fresh copy for each test."
    return _panel.copy()


@pytest.fixture(scope="session")
def small_params():
    "params.yaml, made small: two horizons, few rows, CPU."
    return load_params(changes={"targets.horizons": "1,21", "gate.horizons": "1", "gate.level": ".999", "model.rows": "6000",
                                "model.device": "cpu", "model.threads": "1",
                                "split.forecast_from": "2000-01-01", "split.test_from": "2001-01-01",
                                "search.train_to": "1998-12-31", "search.valid_to": "1999-12-31", "search.trials": "2"})


@pytest.fixture(scope="session")
def features(_panel) -> pd.DataFrame:
    "Features of the panel. Shared, as all that follows: to change it, copy it first."
    return make_features(_panel)


@pytest.fixture(scope="session")
def targets(_panel, small_params) -> pd.DataFrame:
    "Targets of the panel."
    return make_targets(_panel, small_params.targets.horizons)


@pytest.fixture(scope="session")
def plan(_panel, small_params):
    "Two folds: 2000-2001 and 2002-2003."
    s = small_params.split
    return folds(_panel["date"], s.forecast_from, s.refit_months, s.embargo)


@pytest.fixture(scope="session")
def trees() -> dict:
    "Few trees."
    return {"rounds": 15}


@pytest.fixture(scope="session")
def scales(features, targets, small_params, trees) -> pd.DataFrame:
    "What all models forecast in those years."
    return walk(features, targets, small_params, trees)


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory, _panel, features, scales, small_params, trees) -> Path:
    "A bundle trained on the panel (horizons 1 and 21). Read it; to damage it, copy it first."
    folder = tmp_path_factory.mktemp("models") / "challenger"
    ship(folder, _panel, features, scales, small_params, trees, provenance(SNAPSHOT))
    return folder


@pytest.fixture
def bundle(bundle_folder):
    "The loaded bundle."
    return load_bundle(bundle_folder)
