# The commands of this repository; `make help` lists them.

# Also found where `sudo make` has forgotten the user's PATH.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help run build packages test bench lint licences openapi clean-lab

help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r target words; do \
		printf '  make %-10s %s\n' "$$target" "$$words"; done

run: ## install what is missing, build, start vapord, boot a tiny guest through it; ONESHOT=1: show and clean up
	@ONESHOT=$(ONESHOT) packaging/run.sh

build: ## install what building needs, build release
	@tests/lab/setup.sh --build
	cargo build --release

packages: ## build release, make the deb and the rpm in target/packages
	@tests/lab/setup.sh --packages
	cargo build --release --locked --bins
	@packaging/build.sh

test: ## install what testing needs, run every tier of tests; ARGS='…' go to the test runner
	@tests/lab/test.sh $(ARGS)

bench: ## print the budget table with measured values, as text and JSON; parts alone by ARGS="-- starts reads"
	@tests/lab/setup.sh --bench
	cargo bench --locked --bench budgets $(ARGS)

lint: ## formatting, clippy with warnings as errors, the shell scripts where shellcheck is there
	cargo fmt --all -- --check
	cargo clippy --all-targets --locked -- -D warnings
	@if command -v shellcheck >/dev/null; then \
		shellcheck -e SC1091,SC2317 .ci/run packaging/*.sh tests/lab/*.sh tests/openapi/*.sh tests/lab/*/*.sh && \
		shellcheck -s sh -e SC1091 packaging/deb/p*[a-z] tests/lab/*/initramfs/init tests/lab/guest/rootfs/init tests/lab/*/rootfs/sbin/* tests/lab/cloud/rootfs/etc/udhcpc; fi

licences: ## the dependencies' licences and sources against deny.toml
	@tests/lab/licences.py

openapi: ## write docs/openapi.json, docs/errors.md and docs/configuration.md anew from the code
	@mkdir -p docs
	cargo run --quiet --release --bin vapord -- --print-openapi >docs/openapi.json.new
	@mv docs/openapi.json.new docs/openapi.json
	cargo run --quiet --release --bin vapord -- --print-errors >docs/errors.md.new
	@mv docs/errors.md.new docs/errors.md
	cargo run --quiet --release --bin vapord -- --print-configuration >docs/configuration.md.new
	@mv docs/configuration.md.new docs/configuration.md

clean-lab: ## end every private libvirtd, host machine and container of this checkout, remove target/lab
	@tests/lab/libvirtd.sh stop-all
	@tests/lab/hostvm.sh stop-all
	@tests/lab/container.sh clean
	rm -rf target/lab
