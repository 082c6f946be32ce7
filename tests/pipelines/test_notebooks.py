"The habits of notebooks, as DESIGN.md sets them."

import ast

import nbformat
import pytest
from projects import ROOT

from stockml.runner import declared

LIBRARY = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
STAGES = sorted((ROOT / "pipelines").glob("*.ipynb"))
TYPED = {"str", "int", "float", "bool", "list", "dict"}


def read(path):
    return nbformat.read(path, as_version=4)


def names(paths) -> list[str]:
    return [p.stem for p in paths]


def test_all_are_here():
    assert len(LIBRARY) >= 26
    assert set(names(STAGES)) == {"ingest", "features", "search", "train", "evaluate", "backtest", "drift", "promote"}


@pytest.mark.parametrize("path", LIBRARY, ids=names(LIBRARY))
def test_library_notebook(path):
    cells = read(path).cells
    title, subtitle = [line for line in cells[0].source.splitlines() if line.strip()][:2]
    assert (cells[0].cell_type, title, subtitle[:2]) == ("markdown", f"# {path.stem[3:]}", "> ")
    assert cells[1].source == f"#| default_exp {path.stem[3:]}"
    assert "nbdev.nbdev_export()" in cells[-1].source
    assert len(cells) <= 60
    assert path.stat().st_size <= 60_000
    for cell in cells:
        lines = cell.source.strip().splitlines()
        if cell.cell_type == "code" and any(line.startswith("#| export") for line in lines):
            assert sum(not line.startswith("#|") for line in lines) <= 30, f"one idea a cell: {lines[1]}"
    assert not [o for c in cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]
    assert not [c for c in cells if "import *" in c.source]


@pytest.mark.parametrize("path", LIBRARY, ids=names(LIBRARY))
def test_library_notebook_tells_and_shows(path):
    cells = read(path).cells
    assert sum(c.cell_type == "markdown" for c in cells) >= 3
    shown = [c for c in cells if c.cell_type == "code" and not c.source.startswith("#|")]
    assert shown, "define, show, assert"
    assert any("test_" in c.source or "assert" in c.source for c in shown)


@pytest.mark.parametrize("path", STAGES, ids=names(STAGES))
def test_stage_notebook(path):
    notebook = read(path)
    cells = notebook.cells
    lines = [line for line in cells[0].source.splitlines() if line.strip()]
    assert lines[0].startswith("# ")
    assert lines[0].endswith(path.stem)
    assert lines[1].startswith("> ")
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert [c.cell_type for c in tagged] == ["code"]
    for node in ast.parse(tagged[0].source).body:
        assert isinstance(node, ast.AnnAssign), "a parameter has a type and a default"
        assert node.annotation.id in TYPED
        assert type(ast.literal_eval(node.value)).__name__ == node.annotation.id
    assert object not in declared(path).values()
    run = [c for c in cells if c.cell_type == "code" and (c.outputs or c.execution_count)]
    assert not run, "committed without outputs"
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", STAGES, ids=names(STAGES))
def test_stage_notebook_has_no_logic_of_its_own(path):
    tree = ast.parse("\n".join(c.source for c in read(path).cells if c.cell_type == "code"))
    kinds = (ast.ClassDef, ast.For, ast.While, ast.Try)
    assert not [type(n).__name__ for n in ast.walk(tree) if isinstance(n, kinds)]
    imported = {(n.module if isinstance(n, ast.ImportFrom) else n.names[0].name).split(".")[0]
                for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))}
    assert imported <= {"stockml", "pandas", "pathlib", "os", "IPython"}
