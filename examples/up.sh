#!/bin/bash
# Starts a cluster, puts the guestbook on it, waits until it answers, and says
# where it is. Uses no network but the cluster's own.
#
#   up.sh PROA IMAGES    the program; the folder of image archives
set -euo pipefail

proa=$1 images=$2
here=$(cd "$(dirname "$0")" && pwd)
unset KUBECONFIG # another cluster's, perhaps
start=$SECONDS

step() { printf 'up: [%3ds] %s\n' $((SECONDS - start)) "$*"; }
fail() { echo "up: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail 'needs root: a node makes network interfaces and runs containers'

# ask prints what http://$1:$2$3 answers; bash alone, a bare machine has no curl.
ask() {
	exec 3<>"/dev/tcp/$1/$2" || return 1
	printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$3" "$1" >&3
	timeout 5 cat <&3
	exec 3>&- 3<&-
}

if "$proa" status >/dev/null 2>&1; then
	step 'the cluster runs already'
else
	step 'starting the cluster'
	"$proa" up -d
fi

for archive in guestbook-frontend-v1 redis-debian; do
	step "loading $archive.tar"
	"$proa" image load "$images/$archive.tar"
done

step 'applying examples/guestbook'
"$proa" kubectl apply -f "$here/guestbook"
for deployment in redis-leader redis-replica frontend; do
	step "waiting for $deployment"
	"$proa" kubectl rollout status "deployment/$deployment" --timeout=180s ||
		{ "$proa" kubectl get pods,events >&2 || true; fail "$deployment did not get ready"; }
done

address=$("$proa" kubectl get nodes -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
port=$("$proa" kubectl get service frontend -o 'jsonpath={.spec.ports[0].nodePort}')
step "waiting for http://$address:$port/"
for ((n = 0; ; n++)); do
	if answer=$(ask "$address" "$port" /entries 2>/dev/null) && [[ $answer == HTTP/1.?\ 200* ]]; then
		break
	fi
	[ $n -lt 120 ] || fail "the guestbook does not answer at http://$address:$port/: ${answer:-no connection}"
	sleep 0.5
done
step 'the guestbook answers'

kubeconfig=$("$proa" status | sed -n 's/.*kubeconfig \([^ ,]*\).*/\1/p' | head -n 1)
cat <<END

  guestbook    http://$address:$port/
  kubeconfig   ${kubeconfig:-see $proa status}

  $proa kubectl get pods -o wide
  curl -d '{"name":"Ann","text":"hello"}' http://$address:$port/entries
  make down        (and make clean-cluster to remove everything)
END
