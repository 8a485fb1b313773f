# gvtep: `make help` lists the targets.
SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -c
GO          ?= go
PREFIX      ?= /usr/local
FUZZTIME    ?= 20s
BENCHTIME   ?= 1s
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
NEED        := scripts/tools/need.sh
LABTOOLS    := ip ping iperf3 socat tshark
# clang makes the object of the fast path again, to compare it with the committed one.
# gcc: the race detector needs it, and one test runs a binary with it; python3 holds a port in another;
# mandoc and groff find what is wrong with the manual pages, systemd-analyze with the unit.
# Without root these are only looked for, and the tests that need one skip.
TESTTOOLS   := clang curl gcc groff mandoc nft python3 systemd-analyze $(LABTOOLS)
# End-to-end tests that "make test" runs with the fast path on, too: seconds of what decides about
# single packets. GVTEP_E2E_FASTPATH=1 runs any of them so.
FASTPATH    := ^(TestBitErrors|TestChecks(ECN|MTU|Receive|Send)|TestBridgedTooBig|TestStaticEntry|TestTwoLocals|TestTwoDevices)$$
SCRIPTS     := .ci/run $(wildcard scripts/*/*.sh examples/*/*.sh)

.PHONY: help screenshots build install uninstall test race fuzz lint bench bpf man docs demo deb rpm tarball release package-test systemd-test interop labs clean

help: ## this list
	@sed -n 's/^\([a-z -]*\):.*## /  make \1\t/p' Makefile | expand -t 24

build: ## bin/gvtep and bin/gvtep-evpn, a static file each
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w $(if $(VERSION),-X main.version=v$(VERSION:v%=%))' -o bin/ ./cmd/gvtep ./cmd/gvtep-evpn

install: man ## programs, units, manual, completions and documents to $(DESTDIR)$(PREFIX), /usr/local
	@scripts/packaging/layout.sh install
	@[ -n "$(DESTDIR)" ] || echo "for the service, next: systemd-sysusers && systemctl daemon-reload"

uninstall: man ## remove what install put there; /etc/gvtep stays
	@scripts/packaging/layout.sh uninstall

# The end-to-end tests run by themselves: with hundreds of devices they hold the
# kernel's rtnetlink lock for seconds, and others would wait for it.
test: ## vet and all tests; those in network namespaces need root
	@$(NEED) $(TESTTOOLS) || [ $$(id -u) != 0 ]
	$(GO) vet ./...
	@GO=$(GO) scripts/tools/test.sh -timeout 10m -- $$($(GO) list ./... | grep -v /e2e)
	@GO=$(GO) scripts/tools/test.sh -timeout 20m -- ./internal/e2e
	@GO=$(GO) GVTEP_E2E_FASTPATH=1 scripts/tools/test.sh -timeout 5m -run '$(FASTPATH)' -- ./internal/e2e

race: ## the same tests with the race detector
	@$(NEED) $(TESTTOOLS) || [ $$(id -u) != 0 ]
	@GO=$(GO) CGO_ENABLED=1 scripts/tools/test.sh -race -timeout 15m -- $$($(GO) list ./... | grep -v /e2e)
	@GO=$(GO) CGO_ENABLED=1 scripts/tools/test.sh -race -timeout 20m -- ./internal/e2e

fuzz: ## every fuzz target in turn, FUZZTIME=20s each (or a number, such as 20000x)
	@grep -roP --include='*_test.go' '^func \KFuzz\w+' . | sort | while IFS=: read -r file name; do \
	  echo "== $$name in $${file%/*}"; \
	  $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$${file%/*}" </dev/null || exit 1; done

lint: ## gofmt, vet, staticcheck, shellcheck
	@$(NEED) shellcheck
	@bad=$$(gofmt -l .); [ -z "$$bad" ] || { echo "gofmt would change:" $$bad; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	shellcheck $(SCRIPTS)

bench: ## Go benchmarks with allocations, BENCHTIME=1s each
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

# Of the day of the last change, so that two builds of it are the same.
man: build ## the manual pages in bin/man, from what the programs say of themselves
	@for p in gvtep gvtep-evpn; do \
	  bin/$$p -j help | $(GO) run ./scripts/tools/man -date "$${DATE:-$$(git log -1 --format=%cs 2>/dev/null || date -u +%F)}" bin/man || exit 1; done

docs: ## docs/reference.md and docs/drops.md, from the tables of the program
	$(GO) run ./scripts/tools/man -docs docs

screenshots: build ## as root: docs/screens.md, from a real run
	$(GO) test ./internal/e2e -run '^TestScreens$$' -update

bpf: ## internal/fastpath/bpf_bpfel.o and .go, from fast.c, with the clang of Debian 12
	@$(NEED) clang llvm-strip
	BPF2GO_CFLAGS="-idirafter /usr/include/$$(uname -m)-linux-gnu" $(GO) generate ./internal/fastpath

demo: ## as root: two namespaces, two gvtep, over IPv4 and over IPv6; everything removed
	@$(NEED) $(LABTOOLS)
	@$(MAKE) --no-print-directory build
	@UNDERLAY=4 scripts/lab/p2p.sh -n demo
	@UNDERLAY=6 scripts/lab/p2p.sh demo
	@echo "demo: ok"

# The version is taken from git, unless VERSION=1.2.3 says another.
export VERSION PREFIX DESTDIR ZSHDIR GO
PACKTOOLS   := git rpm cpio systemd-analyze
VMTOOLS     := qemu-system-x86_64 mmdebstrap cpio
SCRIPTS     += $(foreach d,packaging packaging/evpn,$(addprefix scripts/$d/,postinstall preremove postremove))

deb rpm tarball: man ## a package for this machine's kind in dist/
	@scripts/packaging/package.sh $@

release: man ## deb, rpm and tarball for amd64 and arm64, and SHA256SUMS
	@scripts/packaging/package.sh $@

package-test: man ## what is in the packages, and that two builds of them are alike
	@$(NEED) $(PACKTOOLS)
	@scripts/packaging/test.sh

systemd-test: man ## the package under Debian's systemd, in a virtual machine
	@$(NEED) $(VMTOOLS)
	@scripts/lab/systemd.sh test

interop: build ## as root: Open vSwitch, FRR, gobgpd, scapy and tshark as the other end, and with GVTEP_E2E_LONG=1 kernels; writes docs/interop.md
	@scripts/interop/run.sh $(PARTS)

labs: build ## as root: the labs of docs/labs.md, one after another
	@$(NEED) $(LABTOOLS) etcd etcdctl python3
	@for l in multi mcast many-vni netns-split bridge ovs etcd flannel "secure wireguard"; do set -- $$l; scripts/lab/$$1.sh $${2:-demo} || exit 1; done

clean: ## remove what was built
	rm -rf bin dist
