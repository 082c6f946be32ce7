"dvc.yaml tells the truth: each stage depends on exactly what it reads."

import ast

import nbformat
import pytest
import yaml
from projects import ROOT

from stockml.config import Params

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ORDER = ["ingest", "features", "search", "train", "evaluate", "backtest", "drift", "promote"]
MODULES = {p.stem for p in (ROOT / "stockml").glob("*.py")}


def code_of(stage: str) -> str:
    cells = nbformat.read(ROOT / f"pipelines/{stage}.ipynb", as_version=4).cells
    return "\n".join(c.source for c in cells if c.cell_type == "code")


def imported(code: str) -> set[str]:
    "The stockml modules that a piece of code imports, at its top or inside its functions."
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("stockml.") for a in node.names if a.name.startswith("stockml.")}
        elif isinstance(node, ast.ImportFrom):
            where = node.module or ""
            if node.level == 0 and where.startswith("stockml."):
                found.add(where.removeprefix("stockml."))
            elif node.level == 1 and where:
                found.add(where)
            elif (node.level, where) in {(1, ""), (0, "stockml")}:
                found |= {a.name for a in node.names}
    return found & MODULES


def closure(code: str) -> set[str]:
    "All modules that are imported when that code runs."
    seen, ahead = set(), imported(code)
    while ahead:
        seen.add(name := ahead.pop())
        ahead |= imported((ROOT / f"stockml/{name}.py").read_text()) - seen
    return seen


def paths(stage: str, *keys: str) -> list[str]:
    "Entries of a stage; they are paths, or paths with options."
    return [e if isinstance(e, str) else next(iter(e)) for key in keys for e in STAGES[stage].get(key, [])]


def test_imports_are_found_in_every_form():
    code = ("import stockml.bot\nfrom stockml.score import x\nfrom stockml import tracking as t\nimport pandas\n"
            "def f():\n    from stockml.search import y\nfrom stockml.nothing import z")
    assert imported(code) == {"bot", "score", "tracking", "search"}
    assert imported("from . import tracking, __version__\nfrom .files import lock") == {"tracking", "files"}
    assert {"config", "schema", "files"} <= closure("from stockml.prices import read_bars")


def test_order_of_the_stages():
    assert list(STAGES) == ORDER
    assert [STAGES[s]["cmd"] for s in ORDER] == [f"stockml stage {s}" for s in ORDER]
    made_by = {out: s for s in ORDER for out in paths(s, "outs", "metrics", "plots")}
    for stage in ORDER:
        before = {made_by[d] for d in paths(stage, "deps") if d in made_by}
        assert all(ORDER.index(b) < ORDER.index(stage) for b in before)
        assert before or stage == "ingest"


@pytest.mark.parametrize("stage", ORDER)
def test_code_among_the_deps_is_exactly_what_is_imported(stage):
    deps = paths(stage, "deps")
    assert f"pipelines/{stage}.ipynb" in deps
    named = {d.removeprefix("stockml/").removesuffix(".py") for d in deps if d.startswith("stockml/")}
    assert named == closure(code_of(stage))
    assert len(deps) == len(set(deps))


def test_spiders_and_price_site_are_a_dep_of_ingest():
    assert "scrapy_project" in paths("ingest", "deps")


@pytest.mark.parametrize("stage", ORDER)
def test_files_that_a_notebook_takes_are_its_deps_and_outs(stage):
    [cell] = [c for c in nbformat.read(ROOT / f"pipelines/{stage}.ipynb", as_version=4).cells
              if "parameters" in c.metadata.get("tags", [])]
    files = {n.value for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Constant)
             and isinstance(n.value, str) and "/" in n.value}
    code = {d for d in paths(stage, "deps") if d.split("/")[0] in ("pipelines", "stockml", "scrapy_project")}
    assert files == {*paths(stage, "deps", "outs", "metrics", "plots")} - code


@pytest.mark.parametrize("stage", ORDER)
def test_params_exist(stage):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for entry in STAGES[stage].get("params", []):
        section, _, key = entry.partition(".")
        assert section in values
        assert not key or key in values[section]


def sections_read(code: str) -> set[str]:
    "Sections of params.yaml that a notebook reads, itself or in the functions of stockml that it reaches."
    bodies = {}
    for name in closure(code):
        for node in ast.parse((ROOT / f"stockml/{name}.py").read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                bodies[node.name] = node
    seen, ahead, found = set(), [ast.parse(code)], set()
    while ahead:
        for node in ast.walk(ahead.pop()):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params":
                found.add(node.attr)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
                if getattr(node.value.func, "id", "") == "load_params":
                    found.add(node.attr)
            elif isinstance(node, ast.Name) and node.id in bodies.keys() - seen:
                seen.add(node.id)
                ahead.append(bodies[node.id])
    return found & set(Params.model_fields)


SPARED = {"evaluate": {"model"}}  # it would train the trees, but it gets their scales from the train stage


@pytest.mark.parametrize("stage", ORDER)
def test_params_are_those_that_are_read(stage):
    listed = {entry.partition(".")[0] for entry in STAGES[stage].get("params", [])}
    assert listed == sections_read(code_of(stage)) - SPARED.get(stage, set())


def test_nothing_that_never_hashes_the_same_is_an_out():
    outs = [out for s in ORDER for out in paths(s, "outs", "metrics", "plots")]
    assert len(outs) == len(set(outs))
    assert not [o for o in outs if o.startswith(("runs", "mlflow", "mlartifacts")) or o.endswith(".ipynb")]


@pytest.mark.parametrize("out", ["data/bars.parquet", "data/fits.npz", "data/scales.parquet", "models/champion", "models/promotions.jsonl"])
def test_what_grows_is_not_deleted_before_a_run(out):
    options = {k: v for s in ORDER for e in STAGES[s].get("outs", []) if isinstance(e, dict) for k, v in e.items()}
    assert options[out] == {"persist": True}
