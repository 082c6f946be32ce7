"Model quality, as the promotion gate measured it: exit code 1 unless the gate's last word on the champion let it through."

import sys
from pathlib import Path

from stockml.bundle import load_bundle
from stockml.config import StockmlError
from stockml.promote import decisions

try:
    model = load_bundle(Path("models/champion")).version
    said = next((d for d in reversed(decisions(Path("models/promotions.jsonl"))) if d["model"] == model), None)
except StockmlError as e:
    sys.exit(f"quality: {e}")
if said is None:
    sys.exit(f"quality: the gate never saw the champion {model}")
for row in said["evidence"]:
    print(f"h={row['horizon']}: pinball {row['ratio']:.4f} times that of {row['against']} (p = {row['dm_p']:.2g}), "
          f"95% interval held {row['cover_95']:.1%}")
if not said["promoted"]:
    sys.exit(f"quality: the gate refused the champion {model}: {'; '.join(said['reasons'])}")
print(f"quality: champion {model} promoted {said['time']}")
