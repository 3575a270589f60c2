# Lastack. `make` alone lists what there is.
GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   = -s -w -buildid= -X main.version=$(VERSION)
# What is shipped and measured is compiled by a profile of the bench (make pgo), which takes a minute longer.
PGO       = off
# What make bench measures of the appliance: values of forwarding, and options as -rounds 4 -profiles DIR.
FORWARDING = auto,relay,splice
BENCHFLAGS =
GOBUILD   = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -pgo=$(PGO) -ldflags='$(LDFLAGS)'
# Linters have a go.mod of their own, so that they never lift a dependency of the product.
LINT      = $(GO) tool -modfile=internal/tools/go.mod

.DEFAULT_GOAL := help
.PHONY: help demo build test test-short race lint bench pgo soak fuzz clean need-go

help: ## this list
	@echo 'Lastack: every connection gets its last ACK. Targets:'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: need-go bin/appliance ## show the main job in network namespaces, without root (KEEP=1 leaves it running)
	bin/appliance demo $(if $(KEEP),--keep)

build bench: PGO = $(CURDIR)/bench/appliance.pgo
build: need-go ## static binaries for amd64 and arm64 in bin/
	GOARCH=amd64 $(GOBUILD) -o bin/appliance-amd64 ./cmd/appliance
	GOARCH=arm64 $(GOBUILD) -o bin/appliance-arm64 ./cmd/appliance

.PHONY: bin/appliance
bin/appliance: need-go
	@mkdir -p bin
	$(GOBUILD) -o $@ ./cmd/appliance

test: need-go lint ## everything that proves the product: lint, unit and namespace tests, race detector
	APPLIANCE_TEST=require CGO_ENABLED=0 $(GO) test -timeout 18m ./...
	$(MAKE) race

race: need-go ## the concurrent packages under the race detector (needs a C compiler)
	@if command -v $${CC:-cc} >/dev/null; then \
	  APPLIANCE_TEST=require CGO_ENABLED=1 $(GO) test -race -short ./... ; \
	else echo 'race: skipped, no C compiler here (apt-get install gcc)'; fi

test-short: need-go ## the first half minute of make test
	CGO_ENABLED=0 $(GO) test -short ./...

lint: need-go ## gofmt, vet on both architectures, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || echo .)); [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	GOARCH=amd64 CGO_ENABLED=0 $(GO) vet ./...
	GOARCH=arm64 CGO_ENABLED=0 $(GO) vet ./...
	CGO_ENABLED=0 $(LINT) staticcheck -checks=all,-ST1003 ./...

bench: need-go bin/appliance ## ratios to HAProxy and to kernel routing, in the same run (bench/results/)
	CGO_ENABLED=0 $(GO) build -o bin/bench ./bench
	bin/bench -appliance bin/appliance -forwarding $(FORWARDING) $(BENCHFLAGS)

pgo: need-go bin/appliance ## renew bench/appliance.pgo, the profile that the compiler goes by (as root, with HAProxy and wrk)
	@rm -rf bin/pgo && mkdir -p bin/pgo
	CGO_ENABLED=0 $(GO) build -o bin/bench ./bench
	APPLIANCE_CPU_PROFILE=$(CURDIR)/bin/pgo/cpu bin/bench -appliance bin/appliance -only requests,connects,stream -rounds 2 -seconds 4 -json bin/pgo/result.json
	$(GO) tool pprof -proto bin/pgo/cpu.* > bench/appliance.pgo

soak: need-go ## the long tests, for an hour: kill -9 anywhere, a process a second, 10,000 schedules, 100,000 connections
	APPLIANCE_SOAK=1 APPLIANCE_TEST=require CGO_ENABLED=0 $(GO) test -timeout 2h -v -run 'KillNine|UpgradesInPlace|EveryState|Reloads|Drains|EveryCarrier|AProcessASecond|HundredThousand' ./cmd/appliance

fuzz: need-go ## every fuzz target for a minute each
	@for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-60s} $$p || exit 1; \
	  done; done

clean: ## remove what was built
	rm -rf bin

need-go:
	@command -v $(GO) >/dev/null || { echo 'Go is missing: install it from https://go.dev/dl/ (1.26.8 or newer), then try again.'; exit 1; }
