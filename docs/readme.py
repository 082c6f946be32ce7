"""README.md from nbs/index.ipynb, with the summary and the plot of the last run: `make readme`.

`render` alone, without a run, is what the test of its freshness uses.
"""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
INDEX, README = ROOT / "nbs/index.ipynb", ROOT / "README.md"


def render(notebook: nbformat.NotebookNode) -> str:
    "The Markdown cells, with links as seen from the root."
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return text.replace("](images/", "](nbs/images/") + "\n"


def refresh(notebook: nbformat.NotebookNode) -> None:
    "Put the last run's summary and fan chart in."
    done = subprocess.run(["stockml", "run"], cwd=ROOT, capture_output=True, text=True, check=True)
    summary = re.sub(r"Champion: .*\n", "", done.stdout.partition("\n\nLook at")[0])  # who ran it is nobody's business here
    for cell in notebook.cells:
        cell.source = re.sub(r"```text\n.*?```", lambda _: f"```text\n{summary}\n```", cell.source, flags=re.DOTALL)
    (ROOT / "nbs/images").mkdir(exist_ok=True)
    shutil.copy(ROOT / "reports/fan.png", ROOT / "nbs/images/fan.png")


if __name__ == "__main__":
    book = nbformat.read(INDEX, as_version=4)
    refresh(book)
    nbformat.write(book, INDEX)
    README.write_text(render(book))
