# The few commands. Everything else is plain dvc, or python -m deploy.X in the environment that `make env` builds.
VENV ?= .venv
export PATH := $(abspath $(VENV))/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: repro test test-all chat serve compare inspect env serve-env

repro: env  ## set everything up and run all stages
	@python -m deploy.lock
	dvc repro

test: serve-env  ## the fast tests
	python -m pytest

test-all: serve-env  ## all tests, also those that run models, servers and the pipeline
	OMP_NUM_THREADS=1 python -m pytest -m "slow or not slow" -n 2 --dist loadfile

chat: env  ## talk to her: ADAPTER=folder or the name of an experiment
	python -m deploy.chat $(if $(ADAPTER),"$(ADAPTER)")

serve: serve-env  ## an OpenAI-compatible endpoint and her page, on loopback
	python -m deploy.serve $(if $(ADAPTER),"$(ADAPTER)")

compare: env  ## strategies side by side; OVER=train.rank VALUES=4,16,64 for any other parameter
	python -m deploy.compare $(if $(OVER),--over "$(OVER)") $(if $(VALUES),--values "$(VALUES)")

inspect: env  ## first look at your own text: make inspect SOURCE=raw/mygame, with CHARACTER=name PARTNER=name if you know
	python -m deploy.inspect "$(or $(SOURCE),raw/sample/script)" $(if $(CHARACTER),--character "$(CHARACTER)") \
	  $(if $(PARTNER),--partner "$(PARTNER)")

env:
	@./setup.sh

serve-env: env
	@cmp -s requirements-serve.txt "$(VENV)/.serving" || { \
	  python -m pip install --quiet --disable-pip-version-check -r requirements-serve.txt && \
	  cp requirements-serve.txt "$(VENV)/.serving"; }
