# The commands of this repository. They need Python 3.11 or newer (with venv) and make; the rest is installed into
# .venv, once: a stamp there holds the hash of each lock file that was installed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# $(call install,requirements): make the environment if need be, then install exactly what requirements.txt locks.
define install
	@test -x $(BIN)/python || { echo "Making $(VENV) ..."; $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; }
	@$(BIN)/python .ci/install $(1)
endef
# What builds the pages' files, as locked; a stamp in node_modules holds the lock's hash. Only `check` and `assets` need it.
npm = { sha256sum package-lock.json | cmp -s - node_modules/.stamp || { npm install --no-save --ignore-scripts --no-audit \
	--no-fund --silent && sha256sum package-lock.json > node_modules/.stamp; }; }
# What `manage.py check --deploy` judges: a production's settings. No secret, no host that exists.
PRODUCTION := env RESPAN_ENV_FILE=/dev/null HOST=0.0.0.0 SECURE_SSL_REDIRECT=true \
	RESPAN_BASE_URL=https://respan.example.com \
	DATABASE_URL=postgres://respan:respan@127.0.0.1:1/respan \
	SECRET_KEY=a-secret-for-checks-only-0123456789-abcdefghijklmnopqrstuvwxyz \
	RESPAN_KEY_PEPPER=a-pepper-for-checks-only-0123456789 \
	RESPAN_KEYS=k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

.PHONY: run test check test-long bench lock fmt assets pictures sbom

run: ## Start everything (Ctrl-C stops it); PORT, HOST and RESPAN_DATA_DIR are honoured
	$(call install,requirements)
	@exec $(BIN)/python manage.py up

test: ## Run the test suite
	$(call install,requirements-test)
	@$(BIN)/python -m pytest -n $${TEST_PROCESSES:-3} --dist loadgroup -m "not long" $(ARGS)

test-long: ## Run the drills of minutes: kills, outages, large counts
	$(call install,requirements-test)
	@$(BIN)/python -m pytest -m long --timeout 900 -s $(ARGS)

check: ## Judge the code: format, lint, types, import rules, deployment settings, migrations, catalogue
	$(call install,requirements-dev)
	@echo "== format and lint"; $(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@echo "== types"; $(PRODUCTION) $(BIN)/mypy .
	@echo "== import rules"; $(BIN)/lint-imports --no-logo
	@echo "== deployment settings"; \
	  $(PRODUCTION) $(BIN)/python -W error::DeprecationWarning manage.py check --deploy --fail-level WARNING
	@echo "== migrations"; \
	  $(PRODUCTION) $(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	@echo "== built pages"; $(npm) && npm run --silent check
	@echo "== catalogue"; $(PRODUCTION) $(BIN)/python manage.py sync_catalog --check

assets: ## Build respan/static/dist from respan/assets and templates (Node 20 and npm)
	@$(npm) && npm run --silent build

pictures: ## Take pictures of every page into docs/images
	$(call install,requirements-test)
	@mkdir -p docs/images && RESPAN_PICTURES=docs/images $(BIN)/python -m pytest -q tests/stories/test_every_page.py

bench: ## Measure CPU and latency of the gateway beside a raw relay
	$(call install,requirements-test)
	@$(BIN)/python -m tests.benchmarks.run $(ARGS)

lock: ## Lock the requirements with hashes, for every platform
	$(call install,requirements-dev)
	for name in requirements requirements-test requirements-dev; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	    $$name.in --output-file $$name.txt || exit 1; \
	done

sbom: ## Write what runs into sbom.json (CycloneDX), from requirements.txt
	$(call install,requirements)
	@$(BIN)/python .ci/sbom requirements.txt > sbom.json && echo "sbom.json"

fmt: ## Format the code
	$(call install,requirements-dev)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
