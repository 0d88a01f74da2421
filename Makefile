# make demo   the main job on two throw-away containers
# make test   everything, real containers included (needs root on Debian 12)
# make check  formatting, lints, licences
# make bench  the figures of docs/measurements.md

SHELL := /bin/bash
CARGO := cargo
WORLD := tests/world

.PHONY: build demo test check bench clean

build:
	$(CARGO) build --release --locked

demo: build
	$(WORLD)/prepare
	$(WORLD)/enter $(WORLD)/demo target/release/nvstage

test:
	$(WORLD)/prepare
	$(CARGO) test --locked --no-run
	$(WORLD)/enter $(CARGO) test --locked --offline

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	if command -v cargo-deny >/dev/null; then cargo deny --offline check licenses bans; \
	else echo "cargo-deny is not installed: licences are not checked"; fi

bench: build
	$(WORLD)/prepare
	$(WORLD)/prepare-large
	$(WORLD)/enter benches/run target/release/nvstage

clean:
	$(CARGO) clean
	find cache -mindepth 1 ! -name README.md -delete
