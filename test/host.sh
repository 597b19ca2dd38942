#!/bin/sh
# Runs a command in a test host: a network namespace with loopback and one
# cable (eth0, 192.0.2.2) to a second namespace (192.0.2.1), no default route,
# no way out. Everything else is the machine's own: files, processes, cgroups.
# (`ip netns exec` would hide the cgroups, nsenter does not.)
#
#   host.sh [--name NAME] -- COMMAND…    make the host if need be, run, remove it
#                                        unless processes are left in it
#   host.sh [--name NAME] --remove       remove it
#
# The second namespace is NAME-peer: another machine on the same network.
set -eu

name=proa-host
remove=
while [ $# -gt 0 ]; do
	case $1 in
	--name) name=$2; shift 2 ;;
	--remove) remove=1; shift ;;
	--) shift; break ;;
	*) break ;;
	esac
done

if [ "$(id -u)" != 0 ]; then
	echo "test host: needs root" >&2
	exit 1
fi
if ! command -v ip >/dev/null; then
	echo "test host: needs ip (apt-get install iproute2)" >&2
	exit 1
fi

exists() { [ -e "/run/netns/$1" ]; }
in_host() { nsenter --net="/run/netns/$name" "$@"; }
in_peer() { nsenter --net="/run/netns/$name-peer" "$@"; }

make_host() {
	ip netns add "$name"
	ip netns add "$name-peer"
	in_host ip link add eth0 type veth peer name eth0 netns "$name-peer"
	in_host ip link set lo up
	in_peer ip link set lo up
	in_host ip addr add 192.0.2.2/24 dev eth0
	in_peer ip addr add 192.0.2.1/24 dev eth0
	in_host ip link set eth0 up
	in_peer ip link set eth0 up
}

remove_host() {
	for ns in "$name" "$name-peer"; do
		if exists "$ns"; then
			ip netns del "$ns"
		fi
	done
}

if [ -n "$remove" ]; then
	remove_host
	exit 0
fi

exists "$name" || make_host
status=0
in_host "$@" || status=$?
left=$(ip netns pids "$name")
if [ -z "$left" ]; then
	remove_host
else
	echo "test host: $name stays: $(echo "$left" | wc -l) processes run in it (make host CMD='make down', or make host-clean)" >&2
fi
exit $status
