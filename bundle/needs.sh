#!/bin/sh
# Installs what a build needs and is missing, where apt is there and this is
# root; elsewhere it names what is missing and stops.
set -eu

version=$(${GO:-go} env GOVERSION 2>/dev/null) || {
	echo 'needs: Go 1.26 or later (https://go.dev/dl/): not found in PATH' >&2
	exit 1
}
case $version in
go1.[0-9] | go1.[0-9].* | go1.1[0-9]* | go1.2[0-5]*)
	echo "needs: Go 1.26 or later (https://go.dev/dl/): this is $version" >&2
	exit 1
	;;
esac

# A static library is there when something can be linked with it.
links() {
	out=$(mktemp)
	echo 'int main(void){return 0;}' | gcc -x c - -static "$@" -o "$out" 2>/dev/null && status=0 || status=1
	rm -f "$out"
	return $status
}

missing=
command -v gcc >/dev/null || missing='gcc libc6-dev libseccomp-dev'
if [ -z "$missing" ]; then
	links || missing='libc6-dev'
	links -lseccomp || missing="$missing libseccomp-dev"
fi
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "needs: a C compiler and the static libraries of libc and libseccomp 2.5 or later are missing" >&2
	echo "needs: Debian calls them $missing; install your system's and run make again" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "needs: $missing; as root: apt-get install $missing" >&2
	exit 1
fi
printf 'needs:  %-24s ' "$(echo $missing)"
start=$(date +%s)
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # several words
if ! apt-get -qq install -y --no-install-recommends $missing >/dev/null 2>&1; then
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends $missing >/dev/null
fi
printf '%-34s %6ss\n' installed "$(($(date +%s) - start)).0"
