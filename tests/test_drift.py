import numpy as np
import pandas as pd
import pytest

from stockml.config import BadInput, Drift
from stockml.drift import CLOCKS, Windows, drift_report, model_inputs, windows
from stockml.features import make_features
from stockml.forecaster import base_scales

SETTINGS = Drift(window=100, reference_sessions=200, distance=.5, share=.3)


@pytest.fixture(scope="module")
def table(_panel):
    return make_features(_panel)


@pytest.fixture
def inputs(bundle_folder, table):
    from stockml.bundle import load_bundle

    return model_inputs(load_bundle(bundle_folder), table)


def made_up(*columns: str, shift: float = 0.) -> Windows:
    "Two samples of the same normal numbers; those named are moved by `shift` standard deviations in the newest."
    rng = np.random.default_rng(1)
    reference = pd.DataFrame(rng.standard_normal((600, 4)), columns=list("abcd"))
    current = pd.DataFrame(rng.standard_normal((300, 4)), columns=list("abcd"))
    for name in columns:
        current[name] += shift
    return Windows(reference, current, [])


def test_model_inputs_are_what_the_trees_see(bundle, table, inputs):
    assert list(inputs) == ["ticker", "date", *bundle.manifest["features"]]
    assert inputs[["ticker", "date"]].equals(table[["ticker", "date"]])
    volatile, raw = (t["v_sd252"].std() / abs(t["v_sd252"].mean()) for t in (inputs, table))
    assert np.isfinite(volatile)
    assert not np.isclose(volatile, raw)  # volatilities are relative to the base, not in their own units


def test_the_trees_correct_their_base_by_just_these_inputs(bundle, table, inputs):
    "Whatever the order of the features in the table: the model's scale is its base times what the trees make of the inputs."
    model, names = bundle.models["xgboost"], bundle.manifest["features"]
    correction = np.exp(model.booster.inplace_predict(inputs[names].to_numpy(np.float32)).reshape(len(inputs), -1))
    scale = model.scale(table[["ticker", "date", *names]])
    old = np.isfinite(scale).all(axis=1)
    np.testing.assert_allclose((base_scales(model.har, table) * correction)[old], scale[old], rtol=1e-5)
    assert correction[old].std() > .01  # they do correct it
    turned = table[["ticker", "date", *names[::-1]]]
    pd.testing.assert_frame_equal(model_inputs(bundle, turned), inputs)


def test_windows_are_the_newest_and_the_one_before(inputs):
    samples = windows(inputs, SETTINGS)
    days = np.sort(inputs["date"].unique())
    assert (len(samples.current), len(samples.reference)) == (100 * 6, 200 * 6)
    expected = inputs[inputs["date"] > days[-101]]
    pd.testing.assert_frame_equal(samples.current, expected[samples.current.columns])
    before = inputs[inputs["date"].between(days[-300], days[-101])]
    pd.testing.assert_frame_equal(samples.reference, before[samples.reference.columns])


def test_clocks_do_not_drift(inputs):
    samples = windows(inputs, SETTINGS)
    assert set(CLOCKS) <= set(inputs)
    assert not {*CLOCKS, "ticker", "date"} & {*samples.current, *samples.reference}


def test_only_stocks_that_are_still_there_count(inputs):
    days = np.sort(inputs["date"].unique())
    gone = inputs[(inputs["ticker"] != "KO") | (inputs["date"] <= days[-50])]
    samples = windows(gone, SETTINGS)
    assert (len(samples.current), len(samples.reference)) == (100 * 5, 200 * 5)


def test_features_that_are_gone_are_named(inputs):
    days = np.sort(inputs["date"].unique())
    inputs.loc[inputs["date"] > days[-90], ["m_r", "m_beta"]] = np.nan
    samples = windows(inputs, SETTINGS)
    assert samples.missing == ["m_beta", "m_r"]
    assert not {"m_r", "m_beta"} & {*samples.current, *samples.reference}


def test_short_history_is_refused(inputs):
    days = np.sort(inputs["date"].unique())
    assert len(windows(inputs[inputs["date"] >= days[-200]], SETTINGS).reference) == 100 * 6
    with pytest.raises(BadInput,
                       match=r"^drift: 199 sessions are too few for a window of 100 against 200: lower drift\."):
        windows(inputs[inputs["date"] >= days[-199]], SETTINGS)


@pytest.mark.parametrize(("columns", "shift", "alarm", "drifted"), [
    ("", 0, False, 0), ("ab", 2, True, 2), ("a", 2, False, 1), ("abcd", .2, False, 0), ("abcd", -1, True, 4),
])
def test_alarm(columns, shift, alarm, drifted):
    found = drift_report(made_up(*columns, shift=shift), SETTINGS)
    assert (found["alarm"], found["drifted"], found["features"]) == (alarm, drifted, 4)
    assert found["share"] == drifted / 4
    assert found["rows"] == {"reference": 600, "current": 300}


def test_distances_are_in_standard_deviations_largest_first():
    found = drift_report(made_up("c", shift=2), SETTINGS)["distances"]
    assert next(iter(found)) == "c"
    assert found["c"] == pytest.approx(2, abs=.2)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert max(v for k, v in found.items() if k != "c") < .2


def test_figures_are_those_of_the_report_that_is_drawn(inputs):
    "They come from Evidently's stat test alone, since its Report draws plots for each."
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    samples = windows(inputs, SETTINGS)
    samples = Windows(samples.reference.iloc[:, :12], samples.current.iloc[:, :12], [])
    shape = DataDefinition(numerical_columns=list(samples.current))
    sets = (Dataset.from_pandas(s.reset_index(drop=True), shape) for s in (samples.current, samples.reference))
    preset = DataDriftPreset(drift_share=SETTINGS.share, num_method="wasserstein", num_threshold=SETTINGS.distance)
    drawn, found = Report([preset]).run(*sets).dict()["metrics"], drift_report(samples, SETTINGS)
    assert found["distances"] == {m["config"]["column"]: float(m["value"]) for m in drawn if "column" in m["config"]}
    [overall] = (m["value"] for m in drawn if "DriftedColumnsCount" in m["config"]["type"])
    assert (found["drifted"], found["share"]) == (int(overall["count"]), round(float(overall["share"]), 4))


def test_real_windows_give_a_page(inputs, tmp_path):
    samples = windows(inputs, SETTINGS)
    found = drift_report(samples, SETTINGS, tmp_path / "deep/drift.html")
    assert found["features"] == samples.current.shape[1] == len(found["distances"])
    assert 0 <= found["share"] <= 1
    page = (tmp_path / "deep/drift.html").read_text()
    assert "<html" in page[:200].lower()
    assert "v_sd252" in page
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["drift.html"]
