"One app around the small bundle, and good requests to spoil."

import json
from collections.abc import Callable

import pandas as pd
import pytest
from flask import Flask
from flask.testing import FlaskClient

from serve.app import create_app


@pytest.fixture(scope="session")
def app(bundle_folder) -> Flask:
    "The service on the bundle of the session."
    return create_app(bundle_folder)


@pytest.fixture
def client(app) -> FlaskClient:
    "Speaks to the app without a network."
    return app.test_client()


@pytest.fixture
def logged(capfd) -> Callable[[], list[dict]]:
    "The lines written since the last call; each is strict JSON."

    def nothing(name: str):
        pytest.fail(f"{name} is no JSON")

    return lambda: [json.loads(line, parse_constant=nothing) for line in capfd.readouterr().out.splitlines()]


@pytest.fixture
def request_for() -> Callable[..., dict]:
    "Bars of one stock as a client would send them."

    def make(bars: pd.DataFrame, **more) -> dict:
        rows = json.loads(bars.drop(columns="ticker").assign(date=bars["date"].dt.strftime("%Y-%m-%d"))
                          .to_json(orient="records", double_precision=15))
        return {"ticker": bars["ticker"].iloc[0], "bars": rows, **more}

    return make


@pytest.fixture
def apple(panel) -> pd.DataFrame:
    "Two years of AAPL, with open, high, low and volume."
    return panel[panel["ticker"] == "AAPL"].tail(520).reset_index(drop=True)


@pytest.fixture
def good(request_for, apple) -> dict:
    "A request that is answered."
    return request_for(apple, horizons=[1, 21])
