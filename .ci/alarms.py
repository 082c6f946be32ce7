"""What is wrong after a run of the pipeline: a line an alarm in reports/alarms.md, an empty file if all is well. Always exit code 0.

Without a journal of production (STOCKML_JOURNAL) only the ages of data and model are looked at, drift and the gate.
"""

import os
import sys
from pathlib import Path

from stockml.bundle import load_bundle
from stockml.config import StockmlError, load_params, project_root
from stockml.files import atomic, read_json
from stockml.monitor import Case, age_checks, all_checks
from stockml.prices import read_bars
from stockml.promote import decisions


def alarms(root: Path) -> list[str]:
    "One line an alarm."
    found, drift, gate = [], read_json(root / "metrics/drift.json"), decisions(root / "models/promotions.jsonl")
    if drift["alarm"]:
        found.append(f"**Drift**: {drift['drifted']} of {drift['features']} features moved away from what the model learnt from.")
    if gate and not gate[-1]["promoted"]:
        found.append(f"**Gate**: model {gate[-1]['model']} of {gate[-1]['as_of']} was refused: {'; '.join(gate[-1]['reasons'])}.")
    if not (champion := root / "models/champion").exists():
        return [*found, "**No champion**: nothing can serve."]
    params, journal = load_params(), os.environ.get("STOCKML_JOURNAL")
    case = Case(params.data.as_of, read_bars(root / "data/bars.parquet", params.data.as_of), load_bundle(champion), champion,
                Path(journal or root / "journal"), params)
    checks = all_checks(case, drift=False) if journal else age_checks(case)
    return [*found, *(f"**Monitor {c.monitor}**: {c.text}." for c in checks if c.state == "alarm")]


root = project_root()
try:
    lines = alarms(root)
except StockmlError as e:
    lines = [f"**The alarms could not be read**: {e}"]
with atomic(root / "reports/alarms.md") as tmp:
    tmp.write_text("".join(f"- {line}\n" for line in lines))
text = "\n".join(lines) or "No alarm."
print(text)
if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
    with Path(summary).open("a") as out:
        print(text, file=out)
sys.exit(0)
