# Run `make` for what there is.
SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(CURDIR)/target
CARGO := $(shell command -v cargo 2>/dev/null || echo $(HOME)/.cargo/bin/cargo)
SAMPAN := $(CARGO_TARGET_DIR)/release/sampan

.PHONY: help demo test check bench build clean tools

help:
	@echo "make demo   build Sampan and run a real application on it"
	@echo "make test   format, lints, all tests"
	@echo "make check  the quick loop: compile and lint"
	@echo "make bench  measure against rivals on this machine"

demo: tools
	@scripts/say "Building Sampan (the first build takes a few minutes)"
	@$(CARGO) build --release --locked
	@SAMPAN=$(SAMPAN) scripts/demo

build:
	$(CARGO) build --release --locked

test: tools
	@scripts/say "Format"
	@$(CARGO) fmt --all --check
	@scripts/say "Lints"
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@scripts/say "Tests"
	@$(CARGO) test --workspace --locked

check:
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

bench: tools
	@$(CARGO) build --release --locked
	@SAMPAN=$(SAMPAN) benches/run

tools:
	@scripts/install-tools

clean:
	$(CARGO) clean
