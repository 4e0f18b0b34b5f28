# Run `make` for what there is.
SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(CURDIR)/target
CARGO := $(shell command -v cargo 2>/dev/null || echo $(HOME)/.cargo/bin/cargo)
SAMPAN := $(CARGO_TARGET_DIR)/release/sampan

.PHONY: help demo fuzz test check bench build clean

help:
	@echo "make demo   build Sampan and run a real application on it"
	@echo "make test   format, lints, all tests"
	@echo "make check  the quick loop: compile and lint"
	@echo "make fuzz   hostile inputs for every decoder, a minute each (SAMPAN_FUZZ_SECONDS)"
	@echo "make bench  measure against rivals on this machine"
	@echo "make build  the release binary, $(SAMPAN)"

build:
	@scripts/install-tools build
	@scripts/say "Building Sampan (the first build takes a few minutes)"
	@$(CARGO) build --release --locked

demo: build
	@scripts/install-tools demo
	@SAMPAN=$(SAMPAN) scripts/demo

test:
	@scripts/install-tools test
	@scripts/say "Format"
	@$(CARGO) fmt --all --check
	@scripts/say "Lints"
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@scripts/say "Tests"
	@# Most of them wait for something most of the time.
	@RUST_TEST_THREADS=4 $(CARGO) test --workspace --locked

check:
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# Deterministic from SAMPAN_FUZZ_SEED on; prints the input of a failure and how to run it again.
fuzz: export SAMPAN_FUZZ_SECONDS ?= 60
fuzz: export SAMPAN_FUZZ_SEED ?= $(shell date +%s)
fuzz:
	@scripts/install-tools test
	@scripts/say "Hostile inputs from seed $$SAMPAN_FUZZ_SEED"
	@$(CARGO) test --locked --lib -p sampan-api -p sampan-cel -p sampan-store -p sampan-daemon -p sampan-apiserver -p sampan-registry -- fuzz:: --nocapture

bench: build
	@scripts/install-tools test
	@$(CARGO) build --release --locked -p sampan-apiserver --example load
	@SAMPAN=$(SAMPAN) benches/run
	@LOAD=$(CARGO_TARGET_DIR)/release/examples/load benches/api

clean:
	$(CARGO) clean
