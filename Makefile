BOARD ?= rock64
OUT ?= out
GO ?= go
# libzstd is faster so; what it writes is the same.
export CGO_CFLAGS ?= -O3
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
ACTIONLINT = github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
GOTESTSUM = gotest.tools/gotestsum@v1.13.0

FIRST_BOOT = image/build/starter/first-boot/first-boot

.PHONY: build release first-boot image test soak lint bench fuzz clean

build: first-boot ## the program, as ./imgtool
	@.ci/deps build
	$(GO) build -trimpath -o imgtool ./cmd/imgtool

VERSION ?= $(shell git describe --tags --always --dirty)

release: first-boot ## programs that need nothing, in dist/: for this Linux with libzstd, for others in Go alone
	@.ci/deps build
	CGO_ENABLED=1 $(GO) build -trimpath -tags netgo,osusergo -ldflags '-s -w -X main.version=$(VERSION) -linkmode external -extldflags "-static"' -o dist/imgtool-linux-$$($(GO) env GOARCH) ./cmd/imgtool
	for arch in amd64 arm64; do CGO_ENABLED=0 GOOS=darwin GOARCH=$$arch $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o dist/imgtool-darwin-$$arch ./cmd/imgtool || exit 1; done

first-boot: ## the program that the starter runs on a Rock64; a part of imgtool
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w' -o $(FIRST_BOOT) ./cmd/first-boot

image: build ## an image of BOARD in out/
	@.ci/deps image
	./imgtool build --board $(BOARD)

test: first-boot ## everything, with a sample of the large matrices
	@.ci/deps test
	@.ci/test $(GO) run $(GOTESTSUM) -- -timeout 28m ./...

soak: first-boot ## the large matrices in full
	@.ci/deps test
	@SOAK=1 .ci/test $(GO) run $(GOTESTSUM) -- -timeout 120m ./...

lint:
	@.ci/deps lint
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	CGO_ENABLED=0 GOOS=darwin GOARCH=arm64 $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(ACTIONLINT)
	@.ci/vulncheck $(GO) run $(GOVULNCHECK)

bench: build ## side by side with mksquashfs, mkfs.vfat, mcopy, sfdisk, dd and bmaptool
	@.ci/deps bench
	.ci/bench ./imgtool

fuzz: ## every fuzz target for FUZZTIME
	@.ci/fuzz $${FUZZTIME:-30s}

clean:
	rm -rf imgtool dist $(FIRST_BOOT) $(OUT)
