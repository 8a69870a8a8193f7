BOARD ?= rock64
OUT ?= out
GO ?= go
TAGS = $$(.ci/tags)
# An optimised libzstd is faster and writes the same bytes.
export CGO_CFLAGS ?= -O3
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
ACTIONLINT = github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
GOTESTSUM = gotest.tools/gotestsum@v1.13.0
# make lint runs vet; without debugging information test programs link faster; some tests
# wait for timeouts, so more packages than processors run at once.
TESTFLAGS = $(TAGS) -vet=off -ldflags=-w -p 4

FIRST_BOOT = image/starter/first-boot/first-boot

.PHONY: help build dist first-boot reference image ci pictures test short race soak lint bench fuzz clean

build: first-boot ## the program, as ./imgtool
	@.ci/deps build
	$(GO) build -trimpath $(TAGS) -ldflags '-X main.version=$(VERSION)' -o imgtool ./cmd/imgtool

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

dist: ## the files of a release in dist/: archives, packages, checksums; see packaging/README.md
	@.ci/deps dist
	packaging/dist dist

first-boot: ## the program that runs on a Rock64 with the starter; a part of imgtool
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w' -o $(FIRST_BOOT).unpacked ./cmd/first-boot
	gzip -9nc $(FIRST_BOOT).unpacked >$(FIRST_BOOT)
	rm $(FIRST_BOOT).unpacked

reference: build ## docs/reference/commands.md, from the program
	./imgtool gen markdown >docs/reference/commands.md

pictures: build ## the pictures of terminals in docs/pictures, from real runs; needs root and QEMU
	cd docs/pictures && $(GO) run . $(CURDIR)/imgtool .

image: build ## an image of BOARD in out/
	@.ci/deps image
	./imgtool build --board $(BOARD)

ci: build ## the images of all boards, built and booted as .github/workflows/images.yml does it
	@.ci/deps ci
	.ci/images

test: first-boot ## all tests, with a sample of the large matrices
	@.ci/deps test
	@.ci/test $(GO) run $(GOTESTSUM) -- $(TESTFLAGS) -timeout 80m ./...

short: first-boot ## without emulated machines and long tests
	$(GO) test $(TESTFLAGS) -short ./...

race: first-boot ## with the race detector, without emulated machines and long tests
	$(GO) test $(TESTFLAGS) -race -short ./...

soak: first-boot ## all tests, with the large matrices in full
	@.ci/deps test
	@SOAK=1 .ci/test $(GO) run $(GOTESTSUM) -- $(TESTFLAGS) -timeout 120m ./...

lint: ## formatting, vet, linters, known vulnerabilities
	@.ci/deps lint
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet $(TAGS) ./...
	CGO_ENABLED=0 GOOS=darwin GOARCH=arm64 $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(ACTIONLINT)
	shellcheck -x -S warning $$(grep -lE '^#!/bin/(ba)?sh' .ci/* .ci/action/* packaging/* 2>/dev/null)
	@.ci/vulncheck $(GO) run $(GOVULNCHECK)

bench: build ## timings side by side with mksquashfs, mkfs.vfat, mcopy, sfdisk, dd and bmaptool
	@.ci/deps bench
	.ci/bench ./imgtool

fuzz: ## every fuzz target for FUZZTIME
	@.ci/fuzz $${FUZZTIME:-30s}

clean: ## remove all build products
	rm -rf imgtool dist $(FIRST_BOOT) $(OUT)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
