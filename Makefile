# Thin targets: each prints the command that it runs, and that command works by itself from the repository root.
#   make up ENV=staging ARGS="--check"
ENV ?= local
ARGS ?=
STAGES ?=

# Every playbook is a target of its own name; those that start with _ are parts of others.
PLAYBOOKS := $(filter-out _%,$(patsubst playbooks/%.yml,%,$(wildcard playbooks/*.yml)))
# Only where sudo would ask, and Ansible has no file with the answer, does it have to ask.
BECOME = $(if $(ANSIBLE_BECOME_PASSWORD_FILE),,\
    $(shell [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null || echo --ask-become-pass))

.PHONY: help venv backup-key pin lock test test-nightly lint unit deploy-tests molecule bench bench-long up start $(PLAYBOOKS)
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@for name in $(PLAYBOOKS); do \
	    printf '  make %-13s %s\n' "$$name" "$$(sed -n 's/^# *//p' playbooks/$$name.yml | head -n 1)"; done
	@printf '\n  ENV=%s selects inventories/<name>, ARGS="..." is handed to ansible-playbook.\n' '$(ENV)'

up start: site ## deploy the environment, or bring it back to what its inventory says

venv: ## the locked Python environment .venv
	@bin/bootstrap

backup-key: ## the key pair for bundles of keys (ARGS="--file ... --passphrase-file ...")
	@bin/backup-key $(ARGS)

RUN = .venv/bin/ansible-playbook
drill: RUN = bin/drill .venv/bin/ansible-playbook
$(PLAYBOOKS): venv
	$(RUN) -i inventories/$(ENV) $(BECOME) playbooks/$@.yml $(ARGS)

test: ## everything: lint, unit, contract, render, backup, deployments (STAGES="lint unit" selects)
	bin/test $(STAGES)

test-nightly: ## everything, and what takes too long for each change
	CI_DEPTH=full TEST_NIGHTLY=1 bin/test $(STAGES)

lint: ## the linters
	bin/test lint

unit: ## unit, contract and render tests; render installs the engine where there is none
	bin/test unit contract render

deploy-tests: ## the deployments, on this machine's engine
	bin/test core pair adopt kill host

molecule: ## a scenario of molecule's by itself (ARGS="verify -s host")
	@bin/bootstrap dev
	PATH=$$PWD/.venv/bin:$$PATH molecule $(ARGS)

bench: ## short benchmarks (ARGS="site memory" selects; docs/benchmarks.md)
	@bin/bootstrap dev
	.venv/bin/python -m bench.run $(ARGS)

bench-long: ## benchmarks that take hours
	@bin/bootstrap dev
	.venv/bin/python -m bench.run --long $(ARGS)

pin: venv ## fill in empty digests of upstream images (ARGS="--registry host/path", ARGS=--again for moved tags)
	.venv/bin/python bin/pin $(ARGS)

lock: ## write requirements*.txt anew from requirements*.in
	bin/bootstrap dev
	for name in requirements requirements-dev; do \
	    .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	        --no-header --quiet $$name.in -o $$name.txt || exit 1; done
