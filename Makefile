# Bulkhead. `make` alone lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Two jobs at once: the machines this is built on are small and shared.
GOFLAGS_BUILD := -p 2
# One mode for programs, tests and lint: another would compile everything once more.
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(GOFLAGS) -trimpath)
LOCAL := bin/local
LOG := .local/log

.PHONY: help
help: ## Show the targets
	@echo "Bulkhead: every tenant of one big Kubernetes cluster gets a Kubernetes of its own."
	@echo
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: up
up: $(LOCAL) ## The main job: super cluster, platform, tenant "demo" and its workload (root)
	@$(LOCAL) up

.PHONY: down
down: $(LOCAL) ## End the embedded super cluster and leave nothing behind
	@$(LOCAL) down

.PHONY: status
status: $(LOCAL) ## Show what of the embedded super cluster runs
	@$(LOCAL) status

.PHONY: build
build: $(LOCAL) ## Build all programs into bin/, upstream ones and tools too
	@$(LOCAL) build --tools

.PHONY: test
test: build verify lint unit e2e ## Everything: generated code, lint, unit, integration and end-to-end tests (root)
	@echo "all tests passed"

.PHONY: unit
unit: ## Unit and integration tests (real apiserver and etcd; needs `make build`)
	@hack/gotest unit -p 2 -timeout 20m ./...
	@cd hyperkube && ../hack/gotest hyperkube -timeout 10m ./test

.PHONY: e2e
e2e: $(LOCAL) ## End-to-end tests on the embedded super cluster (root)
	@hack/gotest e2e -tags e2e -count 1 -parallel 4 -timeout 40m ./e2e/...

.PHONY: lint
lint: ## golangci-lint, at the version that local/artifact pins
	@bin/golangci-lint run ./...

.PHONY: generate
generate: ## Write deep copies and CRDs anew from api/
	@hack/generate

.PHONY: verify
verify: ## Fail where generated code, CRDs or go.mod are not current
	@hack/verify

.PHONY: fuzz
FUZZTIME ?= 20s
fuzz: ## Run every fuzz target for FUZZTIME (20s each)
	@hack/fuzz $(FUZZTIME)

.PHONY: churn
churn: ## Random changes by TENANTS for DURATION while everything is killed, then a model checks both sides
	@CHURN_TENANTS=$${TENANTS:-20} CHURN_DURATION=$${DURATION:-10m} hack/gotest churn -tags churn -v -run TestChurn -count 1 -timeout 90m ./syncer/churn
	@grep -E 'CHURN_SEED|operations|faults|quiet|holds' .local-test/churn.log

.PHONY: bench
BENCH ?= startup
bench: ## Benchmarks: BENCH=startup (time to a Ready virtual cluster) and dataplane, on the running cluster; BENCH=syncer
	@KUBECONFIG=.local/super.kubeconfig go run ./bench/$(BENCH)

.PHONY: clean
clean: down ## Also remove bin/
	@rm -rf bin bench/out

# The go tool knows best what is stale.
.PHONY: $(LOCAL)
$(LOCAL):
	@command -v go >/dev/null || { echo "Go is missing: install Go 1.26 or newer from https://go.dev/dl" >&2; exit 1; }
	@mkdir -p bin
	@test -x $(LOCAL) || echo "building bin/local (the first time takes a minute or two)"
	@go build $(GOFLAGS_BUILD) -o $(LOCAL) ./local
