"The model that is served: whole and warm before it answers, and replaced without a pause when another takes its folder."

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from stockml.bundle import load_bundle
from stockml.config import BadInput, StockmlError, project_root
from stockml.features import MIN_BARS, History

from .body import Wanted
from .forecasts import Served, make
from .metrics import RELOADS
from .problems import Invalid

log = logging.getLogger(__name__)


def model_folder() -> Path:
    "Where the served bundle stands: STOCKML_MODEL, else the project's champion."
    return Path(os.environ.get("STOCKML_MODEL") or project_root() / "models/champion")


def load(folder: Path) -> Served:
    "The bundle in a folder, checked and warm. `BadInput` refuses a damaged one."
    served = Served.of(load_bundle(folder))
    warm_up(served)
    return served


def warm_up(served: Served) -> None:
    "One forecast of a made-up stock: lazy imports and calendars take a second here, not later. `BadInput` if it fails."
    days = np.arange(MIN_BARS) + np.datetime64(datetime.now(UTC).date()) - MIN_BARS
    close, unknown = 100. + np.arange(MIN_BARS) % 2, np.full(MIN_BARS, np.nan)
    try:
        make(served, Wanted([History("WARM", days, unknown, unknown, unknown, close, close, unknown)], None, False))
    except Invalid as e:
        raise BadInput(f"the bundle cannot forecast ({e.description}): train again on longer histories") from None


class Holder:
    "The served model. Requests read `served` once each; `look` alone puts another in its place."

    def __init__(self, folder: Path):
        self.folder = folder
        self.taken = self.before = _state(folder)  # of the files: as last decided on, as last seen
        self.served: Served | None = load(folder)
        self.draining = False  # told to end: still answers, wants no new visitors

    @property
    def ready(self) -> bool:
        return self.served is not None and not self.draining

    def look(self) -> None:
        "Serve what is in the folder now, if it changed and is whole; else go on with what there is."
        now = _state(self.folder)
        settled, self.before = now == self.before, now
        if now == self.taken or not settled:  # a copy under way changes from one look to the next
            return
        self.taken = now
        try:
            served = load(self.folder)
        except StockmlError as e:
            RELOADS.labels("refused").inc()
            log.error("%s; %s goes on serving", e, self.served.model["version"])
            return
        if _state(self.folder) != now:  # replaced while it was read: perhaps half of each
            self.taken = None
        elif served.bundle.manifest["sha256"] != self.served.bundle.manifest["sha256"]:
            old, self.served = self.served, served
            RELOADS.labels("ok").inc()
            log.info("model %s of %s takes over from %s", served.model["version"], served.bundle.manifest["as_of"], old.model["version"])


def _state(folder: Path) -> dict[str, tuple[int, int, int]] | None:
    "What tells a changed bundle from the same one without reading it."
    try:
        with os.scandir(folder) as files:
            return {f.name: ((s := f.stat()).st_ino, s.st_mtime_ns, s.st_size) for f in files}
    except OSError:
        return None
