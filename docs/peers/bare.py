"The floor: Flask around the booster, on ready features. `gunicorn docs.peers.bare:app`, with STOCKML_MODEL naming the bundle."

import os
from pathlib import Path

import numpy as np
import xgboost as xgb
from flask import Flask, request

booster = xgb.Booster({"nthread": 1, "device": "cpu"}, model_file=str(Path(os.environ["STOCKML_MODEL"]) / "model.ubj"))
app = Flask(__name__)


@app.post("/predict")
def predict():
    return booster.inplace_predict(np.array([request.get_json()["features"]], np.float32)).tolist()
