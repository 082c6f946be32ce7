# One vocabulary for people, hooks and CI. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
.DEFAULT_GOAL := help
.PHONY: help setup run train base compare alarms pages share test lint unit notebooks hooks git lab serve ui replay replay-test readme docs \
	docs-serve bench tools quality latency image image-test push release deploy k8s-test lock clean tell-pull tell-alarms propose

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.done ## make .venv from requirements.lock (done by the others when needed)

$(VENV)/.done: requirements.lock settings.ini setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"stockml needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV) from requirements.lock (about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(BIN)/uv pip sync --quiet --system-certs --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## the main job, scrape to served forecast; only what changed is done again
	@stockml run

# The values are read by the shell from its environment, never pasted into it; stockml checks them before anything is written.
train: setup ## the main job with other values: TICKERS=AAPL,KO AS_OF=2004-12-31 (or today) HORIZONS=1,5,21 CHANGES="bot.risk_budget=0.01 ..."
	@set -f; set --; for change in $$CHANGES; do set -- "$$@" --set "$$change"; done; \
	[ "$$AS_OF" != today ] || AS_OF=$$(date -u +%F); \
	stockml run $${TICKERS:+--set "data.tickers=$$TICKERS"} $${AS_OF:+--set "data.as_of=$$AS_OF"} \
		$${HORIZONS:+--set "targets.horizons=$$HORIZONS"} "$$@"

base: setup ## run the pipeline as of BASE=origin/main and keep what comes out as the experiment `base`
	@.ci/base

compare: setup ## parameters, figures and plots beside those of BASE=main, another branch or an experiment; reports/compare/
	@stockml compare --out reports/compare -- "$${BASE:-main}"

alarms: setup ## what is wrong after the last run? reports/alarms.md
	@python .ci/alarms.py

pages: ## the reports and executed notebooks as a site in pages/
	@rm -rf pages && mkdir pages && cp -r reports runs metrics pages/ && mkdir pages/models && cp models/promotions.jsonl pages/models/
	@echo '<meta http-equiv="refresh" content="0; url=reports/index.html">' > pages/index.html

share: setup ## push data and models to the DVC remote, where there is one
	@if [ "$$(stockml remote list --json)" = "[]" ]; then echo "no DVC remote: data and models stay here"; else stockml push; fi

# For workflows, with GITHUB_TOKEN: no environment is set up where something may be written.
tell-pull tell-alarms propose:
	@python3 .ci/github.py "$(patsubst tell-%,%,$(subst tell-pull,comment,$@))" "$$FOLDER"

test: setup git lint unit notebooks ## all tests, with coverage

lint: setup ## style, floors, workflows
	ruff check .
	PYTHONWARNINGS=ignore PYTHONPATH=scrapy_project lint-imports --no-logo
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	zizmor --offline --quiet .github/workflows

unit: setup ## pytest with coverage; what lives through replays is replay-test
	pytest -n 3 --dist loadfile --cov --cov-report=term-missing --ignore=tests/replay

replay-test: setup ## replays that are killed, cut off and shaken, resumed to the same end; five minutes
	pytest tests/replay

notebooks: setup ## run every notebook of nbs/ with its outputs compared
	pytest -q -n 2 --dist loadfile --nbval nbs --ignore=nbs/tutorials --nbval-cell-timeout=300 -p no:cacheprovider

hooks: setup ## notebooks under git: cleaned before a commit, compared and merged cell by cell (test and lab do it too)
	@.ci/hooks

git: setup
	@.ci/hooks quiet

# Whatever kernels and settings a user has elsewhere, notebooks here run in this environment.
lab: setup git ## explore in JupyterLab, from a page that shows where to begin; LAB=--no-browser for a remote machine
	@JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" JUPYTER_PREFER_ENV_PATH=1 jupyter lab --ServerApp.root_dir='$(CURDIR)' $(LAB)

serve: setup ## the forecast service on http://127.0.0.1:8000
	@stockml serve

ui: setup ## the experiments in MLflow on http://127.0.0.1:5000
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "the experiments are on $$MLFLOW_TRACKING_URI" ;; \
	*) mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}" --host 127.0.0.1 --port 5000 ;; esac

replay: setup ## live through history, day by day; FROM=2000-06-01 TO=2001-06-30, Ctrl-C stops it, the same goes on
	@stockml replay $(if $(FROM),--from $(FROM)) $(if $(TO),--to $(TO))

readme: run ## README.md from nbs/index.ipynb and the last run
	python docs/readme.py

docs: setup ## the documentation site into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict
	@echo "Look at $(CURDIR)/site/index.html"

docs-serve: setup ## the same on http://127.0.0.1:8008, made anew when a notebook changes
	NO_MKDOCS_2_WARNING=1 mkdocs serve --dev-addr 127.0.0.1:8008

bench: setup ## measure speed and size into docs/PERFORMANCE.md; PARTS="sharing clone" for some of it
	python docs/bench.py $(PARTS)

tools: ## a browser and a load generator, where apt-get can install them
	@.ci/tools

quality: run ## has the gate let this champion through? its numbers
	python .ci/quality.py

latency: run ## is a prediction fast enough, beside a bare endpoint in the same run?
	python docs/latency.py

image: setup ## the service with the champion as a container image; BASE_IMAGE=... differs from python:3.12-slim
	@python .ci/image.py build

image-test: image ## run that image as in production and test it over HTTP
	IMAGE=$${IMAGE:-stockml:latest} pytest -p no:cacheprovider tests/image

push: setup ## push the image to REGISTRY=host:port; logs in first if REGISTRY_USER and REGISTRY_PASSWORD are set
	@python .ci/image.py push '$(REGISTRY)'

# One after the other, each only if all before passed; a recipe, since `make -j` would run prerequisites side by side.
release: setup ## every gate, then push to REGISTRY=host:port
	@test -n '$(REGISTRY)' || { echo "make release needs REGISTRY=host:port" >&2; exit 2; }
	@test -z "$$TAG" || test "$$TAG" = "v$$(sed -n 's/^version = //p' settings.ini)" || { echo "tag $$TAG is not the version in settings.ini" >&2; exit 2; }
	$(MAKE) lint
	$(MAKE) unit notebooks replay-test
	$(MAKE) quality
	$(MAKE) latency
	$(MAKE) image
	$(MAKE) image-test
	$(MAKE) push

deploy: ## roll IMAGE=host:port/stockml@sha256:... out with OVERLAY=local, cloud or edge on the cluster of KUBECONFIG
	@.ci/deploy '$(IMAGE)' '$(OVERLAY)'

k8s-test: setup ## roll the image out on the cluster of KUBECONFIG, for real; needs IMAGE that its nodes can pull
	pytest -p no:cacheprovider tests/k8s

RESOLVE = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet
lock: setup ## resolve requirements.lock anew from settings.ini, and with its versions those of the images from serve/
	@$(RESOLVE) --all-extras setup.py --output-file requirements.lock
	@sed -n 's/^xgboost==\([^\]*\).*/xgboost-cpu==\1/p' requirements.lock \
		| $(RESOLVE) --constraint requirements.lock --constraint - serve/requirements.in --output-file serve/requirements.lock
	@$(RESOLVE) --constraint requirements.lock serve/mlflow/requirements.in --output-file serve/mlflow/requirements.lock

clean: ## remove what runs produce, keep the environment and DVC's cache
	rm -rf data models runs reports metrics site mlflow.db* mlartifacts .pytest_cache .ruff_cache .hypothesis .coverage
