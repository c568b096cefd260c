# The front door. Bare `make` prints what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run load up down image image-test test test-full ha-test soak up-test mesh-test mesh-soak tour examples lint charts bench bench-full fmt deps tools clean

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
# Where the checks' own tools go, beside the build.
TOOLS := $(abspath $(TARGET))/tools
# What an empty image takes: a static binary, without this machine's paths in it. The sources' own are relative, and the
# directory of this clone must not be among the flags: cargo builds everything anew for others.
STATIC := $(shell uname -m)-unknown-linux-gnu
STATIC_FLAGS := -C target-feature=+crt-static --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo \
  --remap-path-prefix=$(abspath $(TARGET))=/target
IMAGE_BINARY := $(TARGET)/$(STATIC)/release/couponmesh
IMAGE ?= couponmesh:$(shell sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' Cargo.toml)
# Where `make up` keeps data and logs. PostgreSQL's user has to get there, which it does not under /root.
UP_DIR ?= /var/tmp/couponmesh-up
# The binary as the tests build it, so that nothing is built twice: what dependencies can do depends on what is asked for,
# and examples, of which there are none, are what makes cargo count dev-dependencies in.
BUILD_AS_TESTS := $(CARGO) build --locked --workspace --bins --examples
# The binary that is used end to end, e.g. the image's after `make image`.
COUPONMESH := $(or $(COUPONMESH),$(TARGET)/debug/couponmesh)
BUILD_UNLESS_GIVEN = $(if $(filter $(TARGET)/debug/couponmesh,$(COUPONMESH)),$(BUILD_AS_TESTS))
# For tests of two releases together: the binary of the one before this, which is built unless it is given.
FIND_PREVIOUS := previous=$${COUPONMESH_TEST_PREVIOUS:-$$(scripts/previous "$(TARGET)")}

help: ## print this help
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z-]*:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo

##@ Use it
run: ## build and start all services on 127.0.0.1:50051, data in ./data
	$(CARGO) run --release --locked -p couponmesh -- run

load: ## register 10,000 members at what runs there, and check every coupon
	$(CARGO) run --release --locked -p couponmesh -- load --members 10000

# Ports: MEMBER_PORT, COUPON_PORT, NOTIFICATION_PORT, MYPAGE_PORT, POSTGRES_PORT and NATS_PORT.
up: deps ## start PostgreSQL, NATS and each service as a process of its own
	@scripts/tools "$(TOOLS)" grpcurl
	$(CARGO) build --release --locked -p couponmesh
	@PATH="$(TOOLS)/bin:$$PATH" scripts/up "$(UP_DIR)" "$(TARGET)/release/couponmesh"

down: ## stop them; DATA=delete deletes their data, too
	@scripts/down "$(UP_DIR)" $(if $(filter delete,$(DATA)),--delete)

# For docker, podman, kind, minikube or containerd, without any of them. IMAGE names it.
image: ## write the container image to target/couponmesh.tar
	RUSTFLAGS="$(STATIC_FLAGS)" $(CARGO) build --release --locked -p couponmesh --target $(STATIC)
	@scripts/image "$(IMAGE)" "$(TARGET)/couponmesh.tar" "$(IMAGE_BINARY)"

##@ Check it
test: ## run every test
	@scripts/deps strace faketime
	$(CARGO) test --locked --workspace

test-full: deps tools ## run every test on PostgreSQL and NATS
	$(FIND_PREVIOUS); \
	  PATH="$(TOOLS)/bin:$$PATH" scripts/with-postgres env COUPONMESH_TEST_STACK=servers COUPONMESH_TEST_PREVIOUS="$$previous" \
	  $(CARGO) test --locked --workspace

ha-test: deps tools ## let PostgreSQL's primary move, crash and lose its standby under load
	PATH="$(TOOLS)/bin:$$PATH" scripts/with-postgres env COUPONMESH_TEST_STACK=servers \
	  $(CARGO) test --locked --workspace --test faults -- moved:: --test-threads 1 --nocapture

up-test: deps ## test make up and make down, in a directory of their own
	@scripts/tools "$(TOOLS)" grpcurl
	$(BUILD_UNLESS_GIVEN)
	PATH="$(TOOLS)/bin:$$PATH" scripts/up-test "$(COUPONMESH)"

image-test: image ## load the image with docker and podman and run it there (as root)
	@scripts/deps docker.io podman
	scripts/image-test "$(IMAGE)" "$(TARGET)/couponmesh.tar" "$(IMAGE_BINARY)"

# MESH_LOAD is the command that makes an image archive known to the cluster, e.g. "kind load image-archive";
# MESH_GATEWAY the address of its ingress gateway; KEEP=1 keeps the installation.
mesh-test: image ## install the chart on the cluster of KUBECONFIG, test it there, remove it
	@scripts/tools "$(TOOLS)" grpcurl
	PATH="$(TOOLS)/bin:$$PATH" scripts/mesh-test "$(TARGET)" "$(IMAGE_BINARY)"

mesh-soak: image ## the same at length, and each protection taken away (40 minutes)
	@scripts/tools "$(TOOLS)" grpcurl
	PATH="$(TOOLS)/bin:$$PATH" COUPONMESH_SOAK=1 scripts/mesh-test "$(TARGET)" "$(IMAGE_BINARY)"

charts: ## check the charts without a cluster (needs helm and istioctl)
	@scripts/deps python3-venv
	@scripts/tools "$(TOOLS)" kubernetes-validate
	$(BUILD_UNLESS_GIVEN)
	@PATH="$(TOOLS)/bin:$$PATH" scripts/charts "$(COUPONMESH)"

soak: deps tools ## let PostgreSQL, NATS, networks and replicas fail under load (a quarter of an hour)
	$(FIND_PREVIOUS); \
	  PATH="$(TOOLS)/bin:$$PATH" scripts/with-postgres env COUPONMESH_TEST_STACK=servers COUPONMESH_TEST_PREVIOUS="$$previous" COUPONMESH_SOAK=1 \
	  $(CARGO) test --locked --workspace --test faults -- --test-threads 1 --nocapture

tour: tools ## run the README's grpcurl tour and compare what it prints
	$(BUILD_UNLESS_GIVEN)
	PATH="$(TOOLS)/bin:$$PATH" scripts/tour "$(COUPONMESH)"

# LANGUAGES are directories of examples/; all by default.
examples: tools ## build the clients of examples/ and run each against a real server
	@scripts/deps python3-venv
	$(BUILD_UNLESS_GIVEN)
	PATH="$(TOOLS)/bin:$$PATH" CARGO_TARGET_DIR="$(abspath $(TARGET))" scripts/examples "$(COUPONMESH)" $(LANGUAGES)

lint: tools ## check format, clippy, documentation and the contract
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	cd proto && "$(TOOLS)/bin/buf" lint
	PATH="$(TOOLS)/bin:$$PATH" scripts/contract

bench: ## measure speed and size on this machine (minutes; docs/performance.md explains)
	$(CARGO) build --release --locked -p couponmesh
	scripts/bench "$(TARGET)/release/couponmesh"

bench-full: deps tools ## measure the production stack side by side with pgbench
	$(CARGO) build --release --locked -p couponmesh
	PATH="$(TOOLS)/bin:$$PATH" scripts/bench-full "$(TARGET)/release/couponmesh"

##@ Work on it
fmt: ## format the code
	$(CARGO) fmt --all

deps: ## install what tests and make up need beside Rust: strace, faketime, PostgreSQL, PgBouncer, NATS
	@scripts/deps strace faketime postgresql pgbouncer python3-venv
	@scripts/tools "$(TOOLS)" nats-server

tools: ## install the checks' tools: buf and grpcurl
	@scripts/tools "$(TOOLS)" buf grpcurl

clean: ## delete what was built
	$(CARGO) clean
