# Needs make and Python 3.11 or newer, nothing else. `make help` lists what there is.

VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=
SEED ?= 1

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
USABLE := import sys, importlib.util as u; sys.exit(sys.version_info < (3, 11) or not u.find_spec("pip"))
# An environment whose interpreter went away (an upgrade of the system) is made anew.
REBUILD := $(shell $(PY) -c '$(USABLE)' 2>/dev/null || echo rebuild)

# The lock lists what runs marketd first; what follows this line is for development only.
DEV_MARK := For development only

# What promtool looks at: every metric, as one provider exports it.
EXPORT := from marketd.metrics import Metrics; m = Metrics(process=False); m.init_labels(["stockx"]); print(m.render()[0].decode())

PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check --no-input
SELF := $(PIP_INSTALL) --quiet --no-deps --no-build-isolation --editable .

# Tests start the daemon again and again: without bytecode each start would compile it anew.
test test-unit soak bench: export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-unit bench soak check fmt lock schema rebuild
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## everything on this machine, no account needed; ARGS=--once ends after one round
	@$(VENV)/bin/marketd demo $(ARGS)

test: $(VENV)/.installed-dev ## all tests; ARGS are for pytest
	$(PY) -m pytest -n 5 --dist worksteal $(ARGS)

test-unit: $(VENV)/.installed-dev ## the tests that need no database
	$(PY) -m pytest tests/unit $(ARGS)

soak: $(VENV)/.installed-dev ## the long forms: fuzzing, random histories, limits, plans at a million jobs, a storm of faults, half an hour of endurance; SEED=1
	MARKETD_FUZZ=10000 MARKETD_SEED=$(SEED) $(PY) -m pytest tests/faults/test_fuzzing.py tests/faults/test_state_machine.py \
	  tests/faults/test_planted_faults.py -q -s $(ARGS)
	MARKETD_LONG=1 $(PY) -m pytest tests/faults/test_many_daemons.py tests/integration/test_shares.py \
	  tests/integration/test_generated_catalog.py \
	  tests/integration/test_ledger_machine.py -q -s $(ARGS)
	MARKETD_PLAN_JOBS=1000000 $(PY) -m pytest tests/integration/test_query_plans.py -q $(ARGS)
	PYTHONPATH=tests $(PY) -m soak storm --seed $(SEED)
	PYTHONPATH=tests $(PY) -m soak endurance --seed $(SEED)

bench: $(VENV)/.installed-bench ## beside the floor and two peers, within 10 minutes; ARGS are for bench
	$(PY) -m bench $(ARGS)

check: $(VENV)/.installed-dev ## format, lint, types, import floors, dashboard, alert rules
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -m pytest -q tests/unit/test_grafana.py
	@if command -v promtool >/dev/null; then set -e; \
	  promtool check rules prometheus/alerts.yml prometheus/recording.yml; \
	  promtool check config prometheus/scrape.example.yml; \
	  promtool test rules prometheus/tests/*.yml; \
	  $(PY) -c '$(EXPORT)' | promtool check metrics; \
	else echo "promtool is not installed: rules and metrics are not checked"; fi

fmt: $(VENV)/.installed-dev ## format the code and sort the imports
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

schema: $(VENV)/.installed-dev ## write sql/schema.sql, and the names in sql/legacy.sql, anew from the migrations
	@PYTHONPATH=tests $(PY) -m marketd.embedded sh -ec '\
	  $(PY) -c "import asyncio, os; from marketd.migrate import migrate; asyncio.run(migrate(os.environ[\"MARKETD_DSN\"]))"; \
	  $(PY) -m schema_text "$$MARKETD_DSN" > $(VENV)/schema.sql'
	@mv $(VENV)/schema.sql sql/schema.sql
	@PYTHONPATH=tests $(PY) -m legacy_names

# uv resolves for all platforms and Pythons at once. Its own lock file names registries, so only the export
# is kept. `build` stands for what pip needs to install marketd itself.
lock: ## choose the newest versions that pyproject.toml allows and write requirements.lock
	@set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	python3 -m venv "$$tmp/uv"; \
	"$$tmp/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv; \
	mkdir -p "$$tmp/p/daemon/marketd"; \
	cp README.md "$$tmp/p"; cp daemon/marketd/__init__.py "$$tmp/p/daemon/marketd"; \
	awk '{ print } /^\[project.optional-dependencies\]/ { print "build = [\"hatchling>=1.25\", \"editables\"]" }' \
	  pyproject.toml > "$$tmp/p/pyproject.toml"; \
	export="$$tmp/uv/bin/uv export --quiet --project $$tmp/p --no-emit-project --no-header --format requirements-txt"; \
	$$export --extra demo --extra fast --extra build > "$$tmp/run.txt"; \
	$$export --all-extras > "$$tmp/all.txt"; \
	{ echo '# Written by `make lock`. What runs marketd and its demo comes first.'; \
	  cat "$$tmp/run.txt"; echo; echo '# $(DEV_MARK)'; \
	  awk '/^[a-z0-9]/ { take = !($$1 in seen); if (NR == FNR) seen[$$1] = 1 } NR > FNR && take' \
	    "$$tmp/run.txt" "$$tmp/all.txt"; } > requirements.lock; \
	! grep -nE '://|^ *-(i|f|e) |^--|(^|[ "])/' requirements.lock

$(VENV)/.installed: requirements.lock pyproject.toml $(REBUILD)
	$(make_venv)
	@echo "==> installing what marketd and its demo need (once, about 50 MB)"
	@sed '/^# $(DEV_MARK)/,$$d' requirements.lock > $(VENV)/requirements.txt
	@$(PIP_INSTALL) --require-hashes -r $(VENV)/requirements.txt
	@$(SELF)
	@touch $@

$(VENV)/.installed-dev: requirements.lock pyproject.toml $(REBUILD)
	$(make_venv)
	@echo "==> installing what marketd and its tests need (once, about 120 MB)"
	@$(PIP_INSTALL) --require-hashes -r requirements.lock
	@$(SELF)
	@touch $(VENV)/.installed $@

$(VENV)/.installed-bench: bench/requirements.txt $(VENV)/.installed-dev
	@$(PIP_INSTALL) --quiet -r bench/requirements.txt
	@touch $@

# Both stamps may ask for this in one run, so it looks again.
define make_venv
@$(PY) -c '$(USABLE)' 2>/dev/null && exit 0; \
found=; bare=; \
for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
  $$candidate -c '$(NEW_ENOUGH)' 2>/dev/null || continue; \
  if $$candidate -c 'import ensurepip, venv' 2>/dev/null; then found=$$candidate; break; fi; \
  bare=$${bare:-$$candidate}; \
done; \
if [ -z "$$found" ] && [ -n "$$bare" ]; then \
  version=$$($$bare -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
  echo "$$bare cannot make virtual environments. On Debian or Ubuntu: apt install $$version-venv" >&2; exit 1; \
fi; \
if [ -z "$$found" ]; then \
  echo "Python 3.11 or newer is needed and none was found; install it, or: make PYTHON=/path/to/python3" >&2; exit 1; \
fi; \
echo "==> making $(VENV) with $$($$found --version)"; \
$$found -m venv --clear $(VENV)
endef
