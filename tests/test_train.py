"The small bundle of the fixtures holds what it should."

from stockml.bundle import forecast


def test_bundle_answers_for_its_last_day(bundle, panel):
    answers = forecast(bundle, panel)
    assert [a["ticker"] for a in answers] == sorted(panel["ticker"].unique())
    assert {a["origin"] for a in answers} == {"2003-12-31"}
    assert bundle.manifest["commit"] is None or len(bundle.manifest["commit"]) == 40
