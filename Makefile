# Lastack. `make` alone lists what there is.
GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   = -s -w -buildid= -X main.version=$(VERSION) -X main.built=$(shell git log -1 --format=%ct 2>/dev/null)
# What is shipped and measured is compiled by a profile of the bench (make pgo), which takes a minute longer.
PGO       = off
# What make bench measures of the appliance: values of forwarding, and options as -rounds 4 -profiles DIR.
FORWARDING = auto,relay,splice
BENCHFLAGS =
GOBUILD   = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -pgo=$(PGO) -ldflags='$(LDFLAGS)'
# Linters have a go.mod of their own, so that they never lift a dependency of the product.
LINT      = $(GO) tool -modfile=internal/tools/go.mod

.DEFAULT_GOAL := help
.PHONY: help demo build image qemu need-firmware test test-image test-short race lint bench pgo soak fuzz clean need-go

help: ## this list
	@echo 'Lastack: every connection gets its last ACK. Targets:'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: need-go bin/appliance ## show the main job in network namespaces, without root (KEEP=1 leaves it running)
	bin/appliance demo $(if $(KEEP),--keep)

build image bench: PGO = $(CURDIR)/bench/appliance.pgo
build: need-go ## static binaries for amd64 and arm64 in bin/
	GOARCH=amd64 $(GOBUILD) -o bin/appliance-amd64 ./cmd/appliance
	GOARCH=arm64 $(GOBUILD) -o bin/appliance-arm64 ./cmd/appliance

# The number of commits rises with every release. Public minisign keys of those who may sign updates: KEYS='a.pub b.pub'
BUILD_NUMBER ?= $(shell git rev-list --count HEAD 2>/dev/null || echo 1)
KEYS         ?=
image: build bin/appliance ## disk images for amd64 and arm64 in bin/, with sums and an SBOM (no root)
	@for a in amd64 arm64; do \
	  SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) bin/appliance image build --arch $$a --binary bin/appliance-$$a \
	    --release $(VERSION) --build-number $(BUILD_NUMBER) --lock image/lock/packages.lock $(KEYS:%=--update-key %) \
	    --slot-dir bin/slot-$$a -o bin/lastack-$$a.img || exit 1; \
	done

ARCH ?= $(shell $(GO) env GOARCH)
qemu: need-go bin/appliance ## boot the image in QEMU, with a backend behind it (ARCH=arm64 for the other one)
	@[ -e bin/lastack-$(ARCH).img ] || $(MAKE) image
	bin/appliance qemu --arch $(ARCH) bin/lastack-$(ARCH).img

.PHONY: bin/appliance
bin/appliance: need-go
	@mkdir -p bin
	$(GOBUILD) -o $@ ./cmd/appliance

test: need-go need-firmware lint ## everything that proves the product: lint, unit and namespace tests, race detector
	APPLIANCE_TEST=require CGO_ENABLED=0 $(GO) test -timeout 18m ./cmd/appliance
	APPLIANCE_TEST=require CGO_ENABLED=0 $(GO) test -timeout 18m $$($(GO) list ./... | grep -vE '/cmd/appliance$$|$(BOOTED)')
	APPLIANCE_TEST=require CGO_ENABLED=0 $(GO) test -p 1 -timeout 18m $$($(GO) list ./... | grep -E '$(BOOTED)')
	$(MAKE) race

# Those of the whole program look at the clock, and emulated machines keep every core busy: both run alone.
BOOTED = /lastack/image$$|/internal/boot$$

race: need-go ## the concurrent packages under the race detector (needs a C compiler)
	@if command -v $${CC:-cc} >/dev/null; then \
	  APPLIANCE_TEST=require CGO_ENABLED=1 $(GO) test -race -short -timeout 18m $$($(GO) list ./... | grep -vE '$(WHOLE)') ; \
	else echo 'race: skipped, no C compiler here (apt-get install gcc)'; fi

# The whole program under the race detector takes ten minutes more, and its tests look at the clock.
WHOLE = /cmd/appliance$$|/stack/conformance$$
race-whole: need-go ## the whole program under the race detector
	APPLIANCE_TEST=require CGO_ENABLED=1 $(GO) test -race -short -timeout 30m $$($(GO) list ./... | grep -E '$(WHOLE)')

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

soak: need-go ## the long tests, for half an hour: kill -9 anywhere, a process a second, 10,000 schedules, 100,000 connections
	APPLIANCE_SOAK=1 APPLIANCE_TEST=require CGO_ENABLED=0 $(GO) test -timeout 2h -v -run 'KillNine|UpgradesInPlace|EveryState|Reloads|DrainUnder|DrainingA|TenThousandIdle|AfterACrash|EveryCarrier|AProcessASecond|HundredThousand' ./cmd/appliance

test-image: need-go need-firmware ## every way an image may boot, be updated and fail, in QEMU (three quarters of an hour, on a quiet machine)
	APPLIANCE_IMAGE_TEST=1 APPLIANCE_TEST=require CGO_ENABLED=0 $(GO) test -count=1 -p 1 -timeout 3h -v ./image/... ./internal/boot

fuzz: need-go ## every fuzz target for a minute each
	@for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-60s} $$p || exit 1; \
	  done; done

clean: ## remove what was built
	rm -rf bin

# What boots the images in the tests, and what others think of their partitions.
FIRMWARE_TOOLS = qemu-system-x86 ovmf qemu-system-arm qemu-efi-aarch64 mtools dosfstools gdisk
need-firmware:
	@PATH=$$PATH:/usr/sbin:/sbin; missing=; \
	for c in qemu-system-x86_64 qemu-system-aarch64 mdir fsck.fat sgdisk; do command -v $$c >/dev/null || missing="$$missing $$c"; done; \
	for f in /usr/share/OVMF /usr/share/AAVMF; do [ -d $$f ] || missing="$$missing $$f"; done; \
	[ -z "$$missing" ] && exit 0; \
	echo "The firmware tests need$$missing."; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -qy --no-install-recommends $(FIRMWARE_TOOLS); \
	else echo 'Install them, then try again: sudo apt-get install $(FIRMWARE_TOOLS)'; exit 1; fi

need-go:
	@command -v $(GO) >/dev/null || { echo 'Go is missing: install it from https://go.dev/dl/ (1.26.8 or newer), then try again.'; exit 1; }
