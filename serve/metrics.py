"What Prometheus is told. Labels take few values, all of them ours: never a path, a ticker or a name that a client chose."

import math
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from stockml.config import BadInput
from stockml.files import read_json
from stockml.journal import STATE

from .forecasts import Served

LATENCIES = (.0005, .001, .002, .003, .005, .0075, .01, .015, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)
STATES = {"ok": 0, "warn": 1, "alarm": 2, "unknown": -1}
FIELDS = {"ticker", "date", "open", "high", "low", "close", "adj_close", "volume", "bars", "horizons", "series", "body"}

ours = CollectorRegistry()  # of this process; with several workers, their files are read instead
REQUESTS = Histogram("stockml_request_seconds", "Time from a whole request to its answer.", ["endpoint", "status"],
                     buckets=LATENCIES, registry=ours)
BUSY = Gauge("stockml_requests_in_progress", "Requests under way.", multiprocess_mode="livesum", registry=ours)
ERRORS = Counter("stockml_errors", "Requests that failed through a fault of the service.", ["endpoint"], registry=ours)
REJECTED = Counter("stockml_rejected", "Requests with a wrong field, by the kind of the first one.", ["field"], registry=ours)
REFUSED = Counter("stockml_refused", "Requests that were refused before they were whole, or because they are no HTTP.", ["status"],
                  registry=ours)
FORECASTS = Counter("stockml_forecasts", "Forecasts, by the model that made them.", ["model"], registry=ours)
BARS = Histogram("stockml_request_bars", "Bars of the stocks in a request.", registry=ours,
                 buckets=(100, 200, 300, 500, 1000, 2000, 5000, 10_000, 50_000, 200_000))
STALE = Counter("stockml_stale_inputs", "Stocks whose last bar was old when a forecast was asked for.", registry=ours)
RELOADS = Counter("stockml_bundle_reloads", "Bundles that took the place of the served one, or were refused.", ["result"], registry=ours)
for result in ("ok", "refused"):
    RELOADS.labels(result)  # 0 from the start: Prometheus sees no rise from nothing to 1


def field_kind(field: str) -> str:
    'What sort of field was wrong: "series[3].bars[7].close" -> "close". A client\'s own inventions are "other".'
    kind = re.sub(r"\[\d+\]", "", field).rpartition(".")[2]
    return kind if kind in FIELDS else "other"


class ModelFacts(Collector):
    "Facts about the served model, told when asked for: its age grows by itself."

    def __init__(self, served: Served):
        self.served = served

    def collect(self) -> Iterator[GaugeMetricFamily]:
        manifest, model = self.served.bundle.manifest, self.served.model
        info = GaugeMetricFamily("stockml_model_info", "The served model; always 1.", labels=["name", "version", "as_of"])
        info.add_metric([model["name"], model["version"], manifest["as_of"]], 1)
        yield info
        for name, key, what in (("age", "trained_at", "the model was trained"), ("data_age", "as_of", "the newest day it learnt from")):
            if since := _instant(manifest.get(key)):
                age = (datetime.now(UTC) - since).total_seconds()
                yield GaugeMetricFamily(f"stockml_model_{name}_seconds", f"Time since {what}.", value=age)


class Monitors(Collector):
    "What the monitors of production said last, if they ever ran: it stands beside the journal."

    def collect(self) -> Iterator[GaugeMetricFamily]:
        state = GaugeMetricFamily("stockml_monitor_state", "0 ok, 1 warn, 2 alarm, -1 unknown.", labels=["monitor"])
        value = GaugeMetricFamily("stockml_monitor_value", "What a monitor measured last.", labels=["monitor"])
        for name, check in _checks().items():
            state.add_metric([name], STATES[check["state"]])
            if check["value"] is not None:
                value.add_metric([name], float(check["value"]))
        yield from (family for family in (state, value) if family.samples)


def _checks() -> dict[str, dict]:
    "The newest checks; none where there is no such file, or a damaged one."
    folder = os.environ.get("STOCKML_JOURNAL")
    try:
        checks = read_json(Path(folder) / STATE) if folder else {}
        finite = {str(name): c for name, c in checks.items() if c["value"] is None or math.isfinite(c["value"])}
        return {name: c for name, c in finite.items() if c["state"] in STATES}
    except (BadInput, AttributeError, TypeError, KeyError, OverflowError):
        return {}


def _instant(text: object) -> datetime | None:
    "A time of the manifest; none if it holds none."
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def exposition(served: Served) -> bytes:
    "All metrics as Prometheus reads them; those of all workers together, if there are several."
    facts = CollectorRegistry()
    facts.register(ModelFacts(served))
    facts.register(Monitors())
    counted = ours
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(counted := CollectorRegistry())
    return generate_latest(counted) + generate_latest(facts)
