# Needs Python >= 3.11 and make. Everything else is installed into .venv from hash-locked requirements.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help up test lint types suite acceptance acceptance-compose acceptance-kubernetes lock bench bench-deploy bench-gateway bench-gateway-parts bench-scale drill rehearsal storm native native-core native-sanitized clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

up: $(VENV)/shop.stamp ## start the example shop on real engines, in the foreground until Ctrl-C
	@cd examples/shop && exec ../../$(BIN)/atoll up

test: $(VENV)/dev.stamp lint types suite ## lint, types, import contract and the whole suite, engines included

lint: $(VENV)/dev.stamp ## ruff, and the import contract of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/dev.stamp ## mypy --strict on src, tests and the shop; pyright on the README's service
	$(BIN)/mypy
	@for service in examples/shop/services/* benchmarks/order_path/system/services/* tests/systems/witness; do \
	  echo "mypy $$service"; MYPYPATH=$$service $(BIN)/mypy --config-file= --strict -p $${service##*/} || exit 1; done
	$(BIN)/pyright --project tests/typing

suite: $(VENV)/dev.stamp tests/validators/node_modules ## the tests alone, JOBS files at a time (2)
	$(BIN)/python -m pytest -n $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder --durations 25 --durations-min 10

acceptance: $(VENV)/dev.stamp ## what every place has to keep, asked of `atoll up`
	$(BIN)/python -m pytest tests/acceptance

acceptance-compose: $(VENV)/dev.stamp ## the same asked of Compose, on a Docker engine that it installs and starts (Linux, root)
	ATOLL_ACCEPTANCE=compose $(BIN)/python -m pytest tests/acceptance

acceptance-kubernetes: $(VENV)/dev.stamp ## the same asked of the Kubernetes manifests, as podman plays them (Linux, root)
	ATOLL_ACCEPTANCE=kubernetes $(BIN)/python -m pytest tests/acceptance

bench: $(VENV)/dev.stamp ## measure the order path beside the peers that can be installed; table and JSON in benchmarks/results
	$(BIN)/python -m benchmarks.order_path

bench-gateway: $(VENV)/dev.stamp ## measure the gateway alone beside nginx, HAProxy, Caddy and Python proxies, in one run
	$(BIN)/python -m benchmarks.gateway

bench-gateway-parts: $(VENV)/dev.stamp ## measure what each part of the gateway costs a request: make bench-gateway-parts VARIANT=token
	$(BIN)/python -m benchmarks.gateway.parts $(or $(VARIANT),everything)

bench-deploy: $(VENV)/dev.stamp ## measure images, builds, starts and CPU per request of containers beside `atoll up`, in one run (Linux, root)
	$(BIN)/python -m benchmarks.deploy

bench-scale: $(VENV)/dev.stamp ## measure the gateway with 300 services of 20 operations: snapshot, change, memory
	$(BIN)/python -m benchmarks.gateway_scale

drill: $(VENV)/dev.stamp ## kill things at random under load, then reconcile: make drill KILLS=1000 SEED=1
	$(BIN)/python -m tests.chaos.drill --kills $(or $(KILLS),200) --seed $(or $(SEED),1)

rehearsal: $(VENV)/dev.stamp ## rotate, withdraw and revoke under load; propagation times: make rehearsal ROUNDS=20 SEED=1
	$(BIN)/python -m tests.chaos.rehearsal --rounds $(or $(ROUNDS),20) --seed $(or $(SEED),1)

storm: $(VENV)/dev.stamp ## change routes, keys, certificates and replicas under load; what failed: make storm SECONDS=60 ROUTES=50 SEED=1
	$(BIN)/python -m tests.chaos.storm --seconds $(or $(SECONDS),60) --routes $(or $(ROUTES),50) --seed $(or $(SEED),1)

# The same bytes from the same compiler, wherever the sources lie.
NATIVE := src/atoll/engines/envoy_module
ZIG    := $(CURDIR)/$(BIN)/uv run --no-project --with ziglang==0.17.1 python -m ziglang cc
CFLAGS := -std=c11 -fPIC -fvisibility=hidden -Wall -Wextra -Wpedantic -Werror -shared

# Folders are called by processor and system. On macOS whose calls they are is settled when Envoy loads it, and it bears a name.
native: $(VENV)/dev.stamp ## compile the gateway's module for Envoy, after a change in its source
	cd $(NATIVE) && for target in x86_64-linux-gnu.2.17 aarch64-linux-gnu.2.17 aarch64-macos.15.0; do \
	  case $$target in *macos*) own='-Wl,-undefined,dynamic_lookup -Wl,-install_name,libatoll.so' ;; *) own= ;; esac; \
	  folder=$$(echo $$target | cut -d- -f1-2 | cut -d. -f1); mkdir -p $$folder; \
	  $(ZIG) --target=$$target $(CFLAGS) -O2 -Wl,--strip-all $$own -o $$folder/libatoll.so *.c && chmod 644 $$folder/libatoll.so || exit 1; done
	cd $(NATIVE) && sha256sum *.c *.h */*.so > SHA256SUMS

native-sanitized: $(VENV)/dev.stamp ## run the tests of what that module computes under gcc's address and undefined behaviour sanitizers
	folder=$$(mktemp -d) && $(MAKE) --no-print-directory native-core CORE=$$folder/libcore.so CC='gcc -fsanitize=address,undefined \
	  -fno-sanitize-recover=all' && ATOLL_NATIVE_CORE=$$folder/libcore.so LD_PRELOAD=$$(gcc -print-file-name=libasan.so) \
	  ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest -q -k fuzz tests/unit/test_envoy_module.py; failed=$$?; rm -r $$folder; exit $$failed

# What the module computes, without what Envoy calls, for the tests; what C leaves undefined ends the process.
native-core: CC = $(ZIG) -fsanitize=undefined -fsanitize-trap=undefined
native-core: $(VENV)/dev.stamp
	cd $(NATIVE) && $(CC) $(CFLAGS) -fvisibility=default -O1 -g -o $(CORE) $$(ls *.c | grep -v ^module)

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate

lock: $(VENV)/dev.stamp ## resolve requirements anew, the images' too: names, versions and hashes only
	cd requirements && for name in shop dev; do ../$(LOCK) --upgrade $$name.in -o $$name.txt; done
	for file in requirements/images/*.in; do \
	  name=$$(basename $$file .in); $(LOCK) --upgrade $$file -o src/atoll/deploy/locks/$$name.txt || exit 1; done
	wheel=$$(mktemp -d) && $(BIN)/uv build --quiet --wheel --no-build-isolation -o $$wheel . && for folder in examples/shop/services/*; do \
	  $(LOCK) --upgrade --find-links $$wheel --no-emit-find-links --no-emit-package atoll $$folder/pyproject.toml \
	    -o $$folder/requirements.txt || exit 1; done; rm -r $$wheel
	$(LOCK) --upgrade examples/shop/cardprovider/requirements.in -o examples/shop/cardprovider/requirements.txt

clean: ## remove .venv and what the shop has stored
	rm -rf $(VENV) examples/shop/.atoll

# The AsyncAPI specification's JSON schemas are on npm only.
tests/validators/node_modules: tests/validators/package-lock.json
	npm ci --prefix tests/validators --silent --no-audit --no-fund
	@touch $@

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "atoll needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# The package itself is installed editable, built by the locked hatchling.
$(VENV)/%.stamp: requirements/%.txt pyproject.toml | $(VENV)/pyvenv.cfg
	$(PIP) install --quiet --quiet --require-hashes -r requirements/$*.txt
	$(PIP) install --quiet --quiet --no-deps --no-build-isolation -e .
	@touch $@
