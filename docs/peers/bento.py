"BentoML around the booster, on ready features: `bentoml serve docs.peers.bento:Booster`."

import os
from pathlib import Path

import bentoml
import numpy as np
import xgboost as xgb


@bentoml.service(workers=2)
class Booster:
    def __init__(self) -> None:
        self.booster = xgb.Booster({"nthread": 1, "device": "cpu"}, model_file=str(Path(os.environ["STOCKML_MODEL"]) / "model.ubj"))

    @bentoml.api
    def predict(self, features: list[float]) -> list[float]:
        return self.booster.inplace_predict(np.array([features], np.float32)).ravel().tolist()
