#!/bin/sh
# Makes ../definitions.zst: the OpenAPI definitions of every published
# Kubernetes type, one to a line, compressed. Run it after raising the versions
# in go.mod here, which must be those of the main module.
set -eu
cd "$(dirname "$0")"
tagged() { # packages of module $1 that ask for definitions
	dir=$(go list -m -f '{{.Dir}}' "$1")
	grep -rlE '^// \+k8s:openapi-gen=' "$dir" --include='*.go' | xargs -n1 dirname | sort -u |
		sed "s|^$dir|$1|" | grep -vE '/(testapigroup|imagepolicy)/'
}
mkdir -p defs
: >defs/header
go tool openapi-gen --go-header-file defs/header --output-dir defs --output-pkg openapigen/defs \
	--output-file definitions.go --report-filename defs/report $(tagged k8s.io/apimachinery) $(tagged k8s.io/api)
go run ./emit ../definitions.zst
