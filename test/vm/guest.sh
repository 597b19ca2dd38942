#!/bin/busybox sh
# What the guest does: a machine with nothing but a shell, cgroup v2 and one
# network card, as proa finds it.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
hostname guest
echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
echo '127.0.0.1 localhost' >/etc/hosts
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up

say() { echo "guest: $(cut -d' ' -f1 /proc/uptime)s $*"; }

finish() {
	[ "$1" = GUEST-PASS ] || {
		tail -n 30 /var/lib/proa/log/proa.log
		proa kubectl get pods,events -A
		dmesg | tail -n 5
	}
	echo "$1"
	sync
	poweroff -f
}

expect() { # FILE VALUE
	have=$(cat "$1") || finish GUEST-FAIL
	say "$1: $have"
	[ "$have" = "$2" ] || { say "it should be: $2"; finish GUEST-FAIL; }
}

say "kernel $(uname -r), $(mount | grep -c cgroup2) cgroup2 mount"
proa up -d || finish GUEST-FAIL
say 'proa is ready'
proa image load /root/image.tar || finish GUEST-FAIL
cat >/root/pod.yaml <<END
apiVersion: v1
kind: Pod
metadata:
  name: limited
spec:
  containers:
  - name: main
    image: proa-test:1
    args: [sleep, 1h]
    resources:
      requests: {cpu: 100m, memory: 32Mi}
      limits: {cpu: 250m, memory: 64Mi}
END
n=0
until proa kubectl apply -f /root/pod.yaml; do # until the namespace's account is there
	n=$((n + 1)); [ $n -lt 30 ] || finish GUEST-FAIL
	sleep 1
done
proa kubectl wait --for=jsonpath='{.status.phase}'=Running pod/limited --timeout=180s || finish GUEST-FAIL
say 'the pod runs'
proa kubectl get pods -A -o wide
uid=$(proa kubectl get pod limited -o 'jsonpath={.metadata.uid}')
id=$(proa kubectl get pod limited -o 'jsonpath={.status.containerStatuses[0].containerID}')
id=${id#containerd://}
find /sys/fs/cgroup -type d -name "*$id*" | head -n 1 >/root/cgroup
read -r group </root/cgroup || { say "no cgroup of container $id of pod $uid"; find /sys/fs/cgroup -type d | head -n 40; finish GUEST-FAIL; }
expect "$group/memory.max" 67108864
expect "$group/cpu.max" '25000 100000'
expect "$group/cpu.weight" 17 # of 102 shares
pod=${group%/*}
expect "$pod/memory.max" 67108864
expect "$pod/cpu.max" '25000 100000'
expect "$pod/cpu.weight" 17

# A container that takes more memory than it may is killed, and says why.
proa kubectl delete pod limited --now
sed -e 's/name: limited/name: greedy/' -e 's/\[sleep, 1h\]/[eat, "200", 10s]/' -e 's/^spec:/spec:\n  restartPolicy: Never/' /root/pod.yaml >/root/greedy.yaml
proa kubectl apply -f /root/greedy.yaml || finish GUEST-FAIL
proa kubectl wait --for=jsonpath='{.status.phase}'=Failed pod/greedy --timeout=120s || finish GUEST-FAIL
reason=$(proa kubectl get pod greedy -o 'jsonpath={.status.containerStatuses[0].state.terminated.reason}')
say "a container over its memory ended: $reason"
[ "$reason" = OOMKilled ] || finish GUEST-FAIL

# proa ends at once; its containers run on, and the next one takes them over.
proa kubectl run steady --image=proa-test:1 -- sleep 1h || finish GUEST-FAIL
proa kubectl wait --for=condition=Ready pod/steady --timeout=120s || finish GUEST-FAIL
before=$(proa kubectl get pod steady -o 'jsonpath={.status.containerStatuses[0].containerID}')
kill -9 "$(cat /run/proa/proa.pid)"
proa up -d || finish GUEST-FAIL
after=$(proa kubectl get pod steady -o 'jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}')
say "after kill -9: $after"
[ "$after" = "$before 0" ] || finish GUEST-FAIL
proa clean --yes || finish GUEST-FAIL
left=$(find /sys/fs/cgroup -type d -name '*proa*'; ip link | grep proa)
[ -z "$left" ] || { say "left behind: $left"; finish GUEST-FAIL; }
say 'nothing is left behind'
finish GUEST-PASS
