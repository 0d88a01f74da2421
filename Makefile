# make demo   the main job on two throw-away containers
# make test   everything, real containers included (needs root on Debian 12)
# make fuzz   the properties of configurations, a million inputs each
# make check  formatting, lints, licences
# make bench  the figures of docs/measurements.md

SHELL := /bin/bash
WORLD := tests/world
# Looked up when it is first needed, after `tools`.
CARGO = $(shell $(WORLD)/toolchain)

.PHONY: tools build demo test fuzz check bench clean

# What compiling needs: a cargo as new as `rust-version`, by Debian's packages where there is none.
tools:
	@$(WORLD)/toolchain --install >/dev/null

build: tools
	$(CARGO) build --release --locked

demo: build
	$(WORLD)/prepare
	$(WORLD)/enter $(WORLD)/demo target/release/nvstage

test: tools
	$(WORLD)/prepare
	$(CARGO) test --locked --no-run
	$(WORLD)/enter $(CARGO) test --locked --offline

fuzz: tools
	NVSTAGE_CASES=$${NVSTAGE_CASES:-1000000} $(CARGO) test --release --locked --test configurations

check: tools
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check licenses bans

bench: build
	$(WORLD)/prepare
	$(WORLD)/prepare-large
	$(WORLD)/enter benches/run target/release/nvstage

clean:
	$(CARGO) clean
	find cache -mindepth 1 ! -name README.md -delete
