"Save the booster as MLflow keeps models, for `mlflow models serve`: python docs/peers/mlflow_model.py BUNDLE FOLDER"

import sys
from pathlib import Path

import mlflow.xgboost
import xgboost as xgb

bundle, folder = map(Path, sys.argv[1:])
mlflow.xgboost.save_model(xgb.Booster(model_file=str(bundle / "model.ubj")), folder, pip_requirements=["xgboost"])
