#!/bin/sh
# Makes definitions.zst: the OpenAPI definitions of every published Kubernetes
# type, one to a line, compressed. To be run after raising the versions of the
# k8s.io modules. What it generates on the way is 60,000 lines of Go, which must
# not stay.
set -eu
cd "$(dirname "$0")"
mkdir defs
trap 'rm -rf defs' EXIT
tagged() { # packages of module $1, below its folder $2, that ask for definitions
	dir=$(go list -m -f '{{.Dir}}' "$1")
	grep -rlE '^// \+k8s:openapi-gen=' "$dir/${2-}" --include='*.go' | xargs -n1 dirname | sort -u |
		sed "s|^$dir|$1|" | grep -vE '/(testapigroup|imagepolicy)/'
}
: >defs/header
go tool openapi-gen --go-header-file defs/header --output-dir defs --output-pkg proa/internal/httpapi/openapi/defs \
	--output-file definitions.go --report-filename defs/report $(tagged k8s.io/apimachinery) $(tagged k8s.io/api) \
	$(tagged k8s.io/apiextensions-apiserver pkg/apis/apiextensions/v1) $(tagged k8s.io/kube-aggregator pkg/apis/apiregistration/v1)
go run emit.go definitions.zst
