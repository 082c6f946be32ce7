import re
from datetime import date

import pytest

from stockml.config import BadInput, StockmlError, load_params, project_root
from stockml.forecaster import MODELS


@pytest.fixture
def changed_file(root, tmp_path):
    "Write params.yaml with the line of one key replaced; gives the new file."
    def write(key: str = "seed", line: str = "seed: 17"):
        text, count = re.subn(rf"\b{key}:.*", line, (root / "params.yaml").read_text(), count=1)
        assert count == 1
        path = tmp_path / "params.yaml"
        path.write_text(text)
        return path

    return write


def complaint(*args, **kwargs) -> str:
    "What `load_params` says of bad input: always one line."
    with pytest.raises(BadInput) as e:
        load_params(*args, **kwargs)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_params_are_typed_and_frozen():
    params = load_params()
    assert isinstance(params.data.as_of, date)
    assert params.targets.horizons[:3] == (1, 5, 21)
    with pytest.raises(ValueError, match="frozen"):
        params.model.seed = 1


@pytest.mark.parametrize(("line", "expected"), [
    ("seed: x", "model.seed: Input should be a valid integer, got 'x'"),
    ("seed: '17'", "model.seed: Input should be a valid integer, got '17'"),
    ("seed: true", "model.seed: Input should be a valid integer, got True"),
    ("seed: 17\n  speed: 3", "model.speed: Extra inputs are not permitted, got 3"),
    ("source: bloomberg", "data.source: Input should be 'exchange', 'yahoo', 'stooq' or 'csv', got 'bloomberg'"),
    ("tickers: AAPL", "data.tickers: Input should be a valid tuple, got 'AAPL'"),
    ("tickers: [ON]", "data.tickers.0: Input should be a valid string, got True"),
    ("as_of: soon", "data.as_of: Input should be a valid date"),
    ("horizons: [5, 1, 21]", "horizons must ascend without repeats, got [5, 1, 21]"),
    ("horizons: [1, 1, 5, 21]", "horizons must ascend without repeats"),
    ("horizons: []", "targets.horizons: Tuple should have at least 1 item"),
    ("horizons: [1, 6, 21]", "gate.horizons [1, 5] must be among targets.horizons"),
    ("quantiles: [0.0, 0.5, 0.9]", "targets.quantiles.0: Input should be greater than 0"),
    ("capital: -1.0", "bot.capital: Input should be greater than 0"),
    ("risk_budget: .nan", "bot.risk_budget: Input should be"),
    ("stress: 0.0", "bot.stress: Input should be greater than 0"),
    ("stress_factor: 0.5", "bot.stress_factor: Input should be greater than or equal to 1"),
    ("name_limit: 1.5", "bot.name_limit: Input should be less than or equal to 1"),
    ("gross_limit: 1.5", "bot.gross_limit: Input should be less than or equal to 1"),
    ("valid_to: 2100-01-01", "would flatter the scores"),
    ("train_to: 2100-01-01", "search.train_to < search.valid_to < split.test_from must hold"),
    ("forecast_from: 2100-01-01", "split.forecast_from must not be after split.test_from"),
    ("quantiles: [0.025, 0.5, 0.975]", "quantiles must hold 0.05, 0.1, 0.25, 0.75, 0.9, 0.95 too"),
    ("serve: arima", "model.serve: Input should be 'auto', 'xgboost', 'har', "),
    ("serve: [har]", "model.serve: Input should be 'auto', 'xgboost', 'har', "),
    ("gamma: 0.2", "calibrate.gamma: Input should be less than or equal to 0.1"),
    ("gamma: -0.005", "calibrate.gamma: Input should be greater than or equal to 0"),
    ("level: 0.0", "gate.level: Input should be greater than 0"),
    ("level: 1.0", "gate.level: Input should be less than 1"),
    ("level: 0.05\n  max_ratio: 1.0", "gate.max_ratio: Extra inputs are not permitted"),
    ("coverage_95: [0.97, 0.93]", "coverage_95 must be [low, high], got [0.97, 0.93]"),
    ("model: [", "not YAML: "),
])
def test_slip_in_the_file_is_named(changed_file, line, expected):
    message = complaint(changed_file(line.split(":")[0], line))
    assert message.startswith("params.yaml: ")
    assert expected in message


@pytest.mark.parametrize(("key", "wrong", "expected"), [("seed", "seeed: 17", "model.seed: Field required (and 1 more)"),
                                                        ("model", "modell:", "model: Field required (and 1 more)")])
def test_misspelt_key_is_named(changed_file, key, wrong, expected):
    assert complaint(changed_file(key, wrong)) == f"params.yaml: {expected}"


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"just words", b"\xff\xfe\x00", b"a: \x00"])
@pytest.mark.parametrize("changes", [{}, {"model.seed": "3"}])
def test_file_that_is_no_mapping_is_refused(tmp_path, content, changes):
    (tmp_path / "params.yaml").write_bytes(content)
    assert "params.yaml: " in complaint(tmp_path / "params.yaml", changes)


def test_missing_file_and_folder_are_refused(tmp_path):
    assert complaint(tmp_path / "none.yaml") == f"{tmp_path}/none.yaml: not found"
    assert "not readable" in complaint(tmp_path)


@pytest.mark.parametrize(("key", "text", "value"), [
    ("data.tickers", "ON, NO,TRUE ,INF", ("ON", "NO", "TRUE", "INF")),
    ("data.tickers", "", ()),
    ("data.as_of", "2000-09-28", date(2000, 9, 28)),
    ("data.csv", "my prices.csv", "my prices.csv"),
    ("data.csv", "null", None),
    ("model.rows", "5000", 5000),
    ("model.device", "cuda", "cuda"),
    ("model.serve", "gjr", "gjr"),
    ("gate.level", ".01", .01),
    ("gate.window", "252", 252),
    ("calibrate.gamma", "0", 0.0),
    ("calibrate.own", "1", 1.0),
    ("targets.horizons", "[1,5,21]", (1, 5, 21)),
    ("gate.coverage_95", "0.9, 0.99", (0.9, 0.99)),
])
def test_change_is_read_by_the_type_of_its_key(key, text, value):
    section, name = key.split(".")
    assert getattr(getattr(load_params(changes={key: text}), section), name) == value


@pytest.mark.parametrize(("key", "text", "expected"), [
    ("model.row", "5", "params: no key 'model.row'; did you mean model.rows?"),
    ("data", "x", "no key 'data'"),
    ("", "", "no key ''"),
    ("model.rows", "many", "params: model.rows: "),
    ("model.rows", "10", "model.rows: Input should be greater than or equal to 1000"),
    ("model.seed", "null", "model.seed: "),
    ("model.serve", "", "params: model.serve: Input should be 'auto', 'xgboost', "),
    ("gate.max_ratio", "1", "params: no key 'gate.max_ratio'; did you mean "),
    ("gate.window", "0", "gate.window: Input should be greater than or equal to 1"),
    ("gate.level", "nan", "gate.level: Input should be"),
    ("model.device", "tpu", "params: model.device: Input should be 'cpu', 'cuda' or 'auto', got 'tpu'"),
    ("targets.horizons", "1,week", "params: targets.horizons: "),
    ("gate.coverage_95", "0.9", "gate.coverage_95.1: Field required"),
    ("search.valid_to", "2015-01-01", "would flatter the scores"),
])
def test_bad_change_is_named(key, text, expected):
    assert expected in complaint(changes={key: text})


@pytest.mark.parametrize("name", ["auto", *MODELS])
def test_every_model_may_serve(name):
    assert load_params(changes={"model.serve": name}).model.serve == name


def test_change_leaves_the_file_alone(changed_file):
    path = changed_file()
    before = path.read_bytes()
    assert load_params(path, {"model.seed": "3"}).model.seed == 3
    assert path.read_bytes() == before


def test_project_root_is_found_upwards(root, monkeypatch, tmp_path):
    monkeypatch.delenv("STOCKML_ROOT")
    assert project_root(root / "nbs") == root
    monkeypatch.chdir(root / "tests" / "scrapy")
    assert project_root() == root
    with pytest.raises(BadInput, match="no params"):
        project_root(tmp_path)


def test_stockml_root_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
    assert project_root() == tmp_path
    assert complaint() == f"{tmp_path}/params.yaml: not found"


def test_exit_codes():
    assert (StockmlError.exit_code, BadInput.exit_code) == (1, 2)
