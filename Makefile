# The front door. Bare `make` prints what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run load test soak tour lint fmt deps tools bench clean

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
# Where the checks' own tools go, beside the build.
TOOLS := $(abspath $(TARGET))/tools

help: ## print this help
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z-]*:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo

##@ Use it
run: ## build and start all services on 127.0.0.1:50051, data in ./data
	$(CARGO) run --release --locked -p couponmesh -- run

load: ## register 10,000 members at what runs there, and check every coupon
	$(CARGO) run --release --locked -p couponmesh -- load --members 10000

##@ Check it
test: deps ## run every test
	$(CARGO) test --locked --workspace

soak: deps ## let PostgreSQL, NATS, networks and replicas fail under load (a quarter of an hour)
	scripts/with-postgres env COUPONMESH_TEST_STACK=servers COUPONMESH_SOAK=1 \
	  $(CARGO) test --locked -p couponmesh --test faults -- --test-threads 1 --nocapture

tour: tools ## run the README's grpcurl tour and compare what it prints
	$(CARGO) build --locked -p couponmesh
	PATH="$(TOOLS)/bin:$$PATH" scripts/tour "$(TARGET)/debug/couponmesh"

lint: tools ## check format, clippy, documentation and the contract
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	cd proto && "$(TOOLS)/bin/buf" lint

bench: ## measure speed and size on this machine (minutes; docs/performance.md explains)
	$(CARGO) build --release --locked -p couponmesh
	scripts/bench "$(TARGET)/release/couponmesh"

##@ Work on it
fmt: ## format the code
	$(CARGO) fmt --all

deps: ## install what the tests need beside Rust (Debian: strace)
	@scripts/deps strace

tools: ## install the checks' tools: buf and grpcurl
	@scripts/tools "$(TOOLS)"

clean: ## delete what was built
	$(CARGO) clean
