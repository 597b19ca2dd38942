# Everything that is done with this repository, as `make` prints it.
# Settings: ROOT=DIR (where a cluster's data is, as --root), RELEASE=1 (small
# instead of quick), CMD=… (for host), KIND=… (for coverage-api), SECONDS=… and
# SEED=… (for fault), GO=…

GO      ?= go
BUILD   := build
PROA    := $(BUILD)/proa
ETCD    := $(BUILD)/etcd
TAGS    := bundle,grpcnotrace
BEST    := $(if $(RELEASE),-best)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

export GOFLAGS ?= -buildvcs=false
ifdef ROOT
export PROA_ROOT := $(abspath $(ROOT))
endif

# What tests of containers need to find.
TESTENV = PROA_BUNDLE_DIR=$(abspath $(BUILD)/bundle) PROA_TEST_BIN=$(abspath $(BUILD)/bundle/bin) \
          PROA_IMAGES_DIR=$(abspath $(BUILD)/images) PROA_TEST_PROA=$(abspath $(PROA)) \
          PROA_TEST_ETCD=$(abspath $(ETCD))

.DEFAULT_GOAL := help
.PHONY: help build up down clean-cluster test etcd conformance-api conformance-crd conformance-reference coverage-api docs check fuzz fault h2spec kill9 images simulate simulate-crashes bundle proa needs host host-clean test-vm clients test-clients clean FORCE

help: ## print this
	@awk 'BEGIN {FS = ":.*## "} /^[a-z%-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: bundle images proa ## build proa with all that it carries, and the images (needs the network)
	@cp $(BUILD)/bundle/images/pause.tar $(BUILD)/images/

up: build ## start a cluster, put the guestbook on it, wait until it answers (root)
	@examples/up.sh $(PROA) $(BUILD)/images

down: ## stop the cluster; containers' data stays
	@$(PROA) down

clean-cluster: ## stop the cluster and remove everything that it made
	@$(PROA) clean --yes

test: build etcd ## all tests; as root also those with real containers and kernel
	$(GO) -C bundle test ./...
	PROA_TEST_ETCD=$(abspath $(ETCD)) $(GO) test ./...
	@if [ "$$(id -u)" = 0 ]; then \
	  echo 'with the kernel, real containers and the bundle, in a test host:'; \
	  $(TESTENV) test/host.sh --name proa-test-$$$$ -- $(GO) test -tags $(TAGS) -timeout 20m ./...; \
	else echo 'NOT ROOT: tests with the kernel and real containers were not run' >&2; fi

coverage-api: ## which fields of every kind have an invalid, a default or an exempting case
	@$(GO) test -count=1 -timeout 120s -run 'TestTables' ./internal/kinds
	@$(GO) test -count=1 -timeout 120s -run 'TestCoverage' -v ./internal/kinds $(if $(KIND),-missing $(KIND))

etcd: ## build the etcd that tests of the store run (needs the network the first time)
	@cd test/bench/reference && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(abspath $(ETCD)) go.etcd.io/etcd/server/v3

conformance-api: ## the table of API behaviours, in process and over HTTPS; docs/api-support.md must agree
	@cd test/conformance && $(GO) test -count=1 -timeout 300s

conformance-crd: ## the part of that table about custom resources
	@cd test/conformance && $(GO) test -count=1 -timeout 300s -run 'TestRows/^rows$$/^crd-'

conformance-reference: ## the same part on Kubernetes' own machinery (needs the network the first time)
	@cd test/bench/reference && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(abspath $(BUILD))/reference/ go.etcd.io/etcd/server/v3 k8s.io/apiextensions-apiserver
	@cd test/conformance && PROA_CONFORMANCE_REFERENCE=$(abspath $(BUILD))/reference $(GO) test -count=1 -timeout 600s -run TestReference

docs: ## write what is generated in docs: docs/api-support.md
	@$(GO) test -count=1 ./test/conformance -run TestDocs -update

check: ## formatting, vet, staticcheck and the rules of the house
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt these: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) -C bundle vet ./...
	$(GO) run $(STATICCHECK) ./...
	cd bundle && $(GO) run $(STATICCHECK) ./...
	$(GO) test ./internal/house/...

fuzz: ## fuzz every decoder, patch and parser (FUZZTIME=1m each; FUZZ=part of a name)
	@GO='$(GO)' FUZZTIME='$(FUZZTIME)' FUZZ='$(FUZZ)' test/fuzz.sh

H2SPEC = github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
h2spec: ## HTTP/2 judged by the program of that name, 145 cases
	@GOBIN=$(CURDIR)/build/bin $(GO) install $(H2SPEC)
	@PROA_TEST_H2SPEC=$(CURDIR)/build/bin/h2spec $(GO) test -count=1 -v -run TestH2Spec ./internal/httpapi/h2

fault: ## crashes, failing disks, bit flips, races, watches and planted bugs (SECONDS=600 SEED=…)
	@$(GO) run ./test/fault -time $(or $(SECONDS),600)s -seed $(or $(SEED),0)

simulate: ## days of a cluster's life from one seed, with all that can break; the same seed is the same life (SEED= DAYS=1 NODES=12 TRACE=file)
	@$(GO) test -c -o $(BUILD)/simulate.test ./test/simulate
	@cd test/simulate && $(abspath $(BUILD))/simulate.test -test.run '^TestSimulate$$' -test.timeout 0 -seed $(or $(SEED),0) -days $(or $(DAYS),1) -nodes $(or $(NODES),12)

simulate-crashes: ## one story again for each write of a controller, which ends right after it
	@$(GO) test -c -o $(BUILD)/simulate.test ./test/simulate
	@cd test/simulate && $(abspath $(BUILD))/simulate.test -test.run '^TestCrashes$$' -test.timeout 0 -crashes 0

images: needs ## build the images of examples and tests into build/images
	@$(GO) run ./test/images -o $(BUILD)/images

bundle: needs ## build containerd, runc, kubectl and the rest; pack them (RELEASE=1: small)
	@$(GO) -C bundle run ./build -o ../$(BUILD) -core .. -embed ../internal/bundle $(BEST)

proa: bundle ## build proa with its bundle, without the images
	@printf 'build:  %-24s ' proa; start=$$(date +%s%N); \
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '-s -w' -o $(PROA) ./cmd/proa && \
	echo "$$start $$(date +%s%N) $$(stat -c %s $(PROA))" | awk '{printf "%-34s %6.1fs\n", sprintf("%.1f MB", $$3/1e6), ($$2-$$1)/1e9}'

needs:
	@bundle/needs.sh

host: ## run CMD, or a shell, in a test host: own network, no way out (root)
	@test/host.sh -- $(if $(CMD),sh -c '$(subst ','\'',$(value CMD))',$${SHELL:-sh})

host-clean: ## remove the test host
	@test/host.sh --remove

# What the older kubectl says of itself.
OLDKUBECTL = $(foreach x,gitVersion=v1.31.3 gitMajor=1 gitMinor=31,-X k8s.io/component-base/version.$(x))

clients: ## build the programs of others that test-clients runs (needs the network)
	@mkdir -p $(BUILD)/clients
	cd test/clients/helm && CGO_ENABLED=0 $(GO) build -o $(abspath $(BUILD))/clients/helm helm.sh/helm/v4/cmd/helm
	for c in oldkubectl clientgo manager operator dynamicop sampleapi; do (cd test/clients/$$c && CGO_ENABLED=0 $(GO) build -ldflags '$(OLDKUBECTL)' -o $(abspath $(BUILD))/clients/$$c .) || exit; done
	cd test/clients/sampleapi && CGO_ENABLED=0 $(GO) build -o $(abspath $(BUILD))/clients/ k8s.io/sample-apiserver go.etcd.io/etcd/server/v3

test-clients: build clients ## helm, an older kubectl, operators on client-go and controller-runtime, an aggregated API server (root)
	PROA_TEST_CLIENTS=$(abspath $(BUILD))/clients $(TESTENV) test/host.sh --name proa-clients-$$$$ -- \
	  $(GO) test -tags $(TAGS) -count 1 -timeout 15m -run 'TestClients|TestOperatorInside|TestCorpusDefinitions|TestHelm|TestKubectl|TestOldKubectl' -v ./test/story

bench-%: FORCE ## start, podstart, create, get, list, watch, size, crd, recover, memory, sched, rollout: one measurement, one line last
	@$(if $(filter-out bench-store bench-sched,$@),test -x $(PROA) || $(MAKE) build;) $(TESTENV) $(GO) run ./test/bench/$*

kill9: ## kill -9 in a loop under writers, beside a CRD server and etcd (SECONDS=60 WRITERS=64 SEED= ONLY=proa|crd)
	@test -x $(PROA) || $(MAKE) build
	@$(TESTENV) SECONDS='$(SECONDS)' WRITERS='$(WRITERS)' SEED='$(SEED)' ONLY='$(ONLY)' $(GO) run ./test/fault/kill

test-vm: ## boot a QEMU guest with cgroup v2 and run a pod there (slow)
	@$(TESTENV) $(GO) run ./test/vm

clean: ## remove what was built
	rm -rf $(BUILD) internal/bundle/bundle.tar.zst internal/bundle/bundle.tar.zst.sha256
