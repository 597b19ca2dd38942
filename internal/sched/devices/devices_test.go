package devices_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"proa/internal/sched/devices"
)

func parse(t testing.TB, into any, text string) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

// state is one of a class gpu for all devices and a pool "a" of a node of that name.
func state(t testing.TB, pool string) (*devices.State, *corev1.Node) {
	t.Helper()
	s := devices.NewState()
	s.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}})
	n := &resourcev1.ResourceSlice{}
	parse(t, n, `{metadata: {name: a}, spec: {driver: gpu.example.com, nodeName: a, pool: {name: a, generation: 1, resourceSliceCount: 1}, `+pool+`}}`)
	s.SetSlice(n)
	return s, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
}

func claim(t testing.TB, name, devices string) *resourcev1.ResourceClaim {
	t.Helper()
	c := &resourcev1.ResourceClaim{}
	parse(t, c, `{metadata: {namespace: d, name: `+name+`, uid: `+name+`}, spec: {devices: {`+devices+`}}}`)
	for i := range c.Spec.Devices.Requests {
		r := &c.Spec.Devices.Requests[i]
		all := []*resourcev1.ExactDeviceRequest{r.Exactly}
		for _, e := range all {
			if e != nil && e.AllocationMode == "" {
				e.AllocationMode = resourcev1.DeviceAllocationModeExactCount
				e.Count = max(e.Count, 1)
			}
		}
	}
	return c
}

// found are the devices of one claim, or why it gets none.
func found(s *devices.State, n *corev1.Node, claims ...*resourcev1.ResourceClaim) string {
	w, err := s.Want(claims)
	if err != nil {
		return err.Error()
	}
	f, err := w.On(n)
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, a := range f.Allocations() {
		for _, r := range a.Devices.Results {
			text := r.Request + "=" + r.Device
			for _, name := range []resourcev1.QualifiedName{"memory"} {
				if q, ok := r.ConsumedCapacity[name]; ok {
					text += "(" + q.String() + ")"
				}
			}
			out = append(out, text)
		}
	}
	return strings.Join(out, " ")
}

const one = `requests: [{name: r, exactly: {deviceClassName: gpu}}]`

// TestConstraints checks that a choice is taken back if it stands in the way of a later one.
func TestConstraints(t *testing.T) {
	const pool = `devices: [{name: a0, attributes: {rack: {int: 1}, card: {string: x}}}, {name: a1, attributes: {rack: {int: 2}, card: {string: x}}},
		{name: a2, attributes: {rack: {int: 2}, card: {string: y}}}, {name: a3, attributes: {rack: {string: "2"}, card: {string: z}}}, {name: a4, attributes: {racks: {ints: [1, 2]}}}]`
	for _, tt := range []struct{ name, claim, want string }{
		{"two of one rack", `requests: [{name: r, exactly: {deviceClassName: gpu, count: 2}}], constraints: [{matchAttribute: gpu.example.com/rack}]`, "r=a1 r=a2"},
		{"by two requests", `requests: [{name: r, exactly: {deviceClassName: gpu}}, {name: q, exactly: {deviceClassName: gpu}}], constraints: [{matchAttribute: gpu.example.com/rack}]`, "r=a1 q=a2"},
		{"for one of the requests only", `requests: [{name: r, exactly: {deviceClassName: gpu}}, {name: q, exactly: {deviceClassName: gpu}}], constraints: [{requests: [r], matchAttribute: gpu.example.com/rack}]`, "r=a0 q=a1"},
		{"three of one rack, and of different types", `requests: [{name: r, exactly: {deviceClassName: gpu, count: 3}}], constraints: [{matchAttribute: gpu.example.com/rack}]`, "cannot allocate all claims"},
		{"different cards", `requests: [{name: r, exactly: {deviceClassName: gpu, count: 3}}], constraints: [{distinctAttribute: gpu.example.com/card}]`, "r=a0 r=a2 r=a3"},
		{"four different cards", `requests: [{name: r, exactly: {deviceClassName: gpu, count: 4}}], constraints: [{distinctAttribute: gpu.example.com/card}]`, "cannot allocate all claims"},
		{"one rack, different cards", `requests: [{name: r, exactly: {deviceClassName: gpu, count: 2}}], constraints: [{matchAttribute: gpu.example.com/rack}, {distinctAttribute: gpu.example.com/card}]`, "r=a1 r=a2"},
		{"derived of both kinds", `requests: [{name: r, exactly: {deviceClassName: gpu, count: 3, derivedAttributes: [{name: derived/rack, expression: 'has(device.attributes["gpu.example.com"].racks) ? device.attributes["gpu.example.com"].racks : [device.attributes["gpu.example.com"].rack]'}]}}], constraints: [{matchAttribute: derived/rack}]`, "r=a1 r=a2 r=a4"},
		{"derived, shadowing", `requests: [{name: r, exactly: {deviceClassName: gpu, count: 5, derivedAttributes: [{name: gpu.example.com/rack, expression: '"same"'}]}}], constraints: [{matchAttribute: gpu.example.com/rack}]`, "r=a0 r=a1 r=a2 r=a3 r=a4"},
		{"derived of what is not there", `requests: [{name: r, exactly: {deviceClassName: gpu, derivedAttributes: [{name: derived/x, expression: 'device.attributes["gpu.example.com"].none'}]}}], constraints: [{matchAttribute: derived/x}]`,
			"derived attribute derived/x of request r on device gpu.example.com/a/a0: no such key: none"},
	} {
		s, n := state(t, pool)
		if got := found(s, n, claim(t, "c", tt.claim)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestShares checks what shares of a device take of its capacity.
func TestShares(t *testing.T) {
	for _, tt := range []struct{ policy, ask, want string }{
		{``, ``, "r=g0(10Gi)"},
		{``, `4Gi`, "r=g0(4Gi)"},
		{``, `11Gi`, "cannot allocate all claims"},
		{`default: 2Gi`, ``, "r=g0(2Gi)"},
		{`default: 2Gi`, `3Gi`, "r=g0(3Gi)"},
		{`default: 2Gi, validValues: [2Gi, 8Gi]`, `3Gi`, "r=g0(8Gi)"},
		{`default: 2Gi, validValues: [2Gi, 8Gi]`, `9Gi`, "cannot allocate all claims"},
		{`default: 2Gi, validRange: {min: 2Gi}`, `1Gi`, "r=g0(2Gi)"},
		{`default: 2Gi, validRange: {min: 2Gi, step: 3Gi}`, `6Gi`, "r=g0(8Gi)"},
		{`default: 2Gi, validRange: {min: 2Gi, step: 3Gi}`, `5Gi`, "r=g0(5Gi)"},
		{`default: 2Gi, validRange: {min: 2Gi, step: 2Gi, max: 6Gi}`, `7Gi`, "cannot allocate all claims"},
		{`default: 500m, validRange: {min: 500m, step: 250m}`, `600m`, "r=g0(750m)"},
	} {
		policy, ask := "", ""
		if tt.policy != "" {
			policy = ", requestPolicy: {" + tt.policy + "}"
		}
		if tt.ask != "" {
			ask = ", capacity: {requests: {memory: " + tt.ask + "}}"
		}
		s, n := state(t, `devices: [{name: g0, allowMultipleAllocations: true, capacity: {memory: {value: 10Gi`+policy+`}}}]`)
		if got := found(s, n, claim(t, "c", `requests: [{name: r, exactly: {deviceClassName: gpu`+ask+`}}]`)); got != tt.want {
			t.Errorf("policy %q, asked for %q: %s, want %s", tt.policy, tt.ask, got, tt.want)
		}
	}
}

// TestGroups checks that parts of one device go together only if they have a group in common.
func TestGroups(t *testing.T) {
	part := func(name, groups string) string {
		return `{name: ` + name + `, consumesCounters: [{counterSet: card, counters: {m: {value: "1"}}, compatibilityGroups: [` + groups + `]}]}`
	}
	pool := func(parts ...string) *devices.State {
		s, _ := state(t, `devices: [`+strings.Join(parts, ", ")+`]`)
		first, second := &resourcev1.ResourceSlice{}, &resourcev1.ResourceSlice{}
		parse(t, first, `{metadata: {name: a}, spec: {driver: gpu.example.com, nodeName: a, pool: {name: a, generation: 2, resourceSliceCount: 2}, devices: [`+strings.Join(parts, ", ")+`]}}`)
		parse(t, second, `{metadata: {name: b}, spec: {driver: gpu.example.com, nodeName: a, pool: {name: a, generation: 2, resourceSliceCount: 2}, sharedCounters: [{name: card, counters: {m: {value: "3"}}}]}}`)
		s.SetSlice(first)
		s.SetSlice(second)
		return s
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	two := func() *resourcev1.ResourceClaim {
		return claim(t, "c", `requests: [{name: r, exactly: {deviceClassName: gpu, count: 2}}]`)
	}
	for _, tt := range []struct {
		parts []string
		want  string
	}{
		{[]string{part("k", "p"), part("l", "q"), part("m", "p, q")}, "r=k r=m"},
		{[]string{part("k", "p"), part("l", "")}, "cannot allocate all claims"},
		{[]string{part("k", ""), part("l", "")}, "r=k r=l"},
	} {
		if got := found(pool(tt.parts...), n, two()); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.parts, got, tt.want)
		}
	}
	if got := found(pool(part("j", ""), part("k", ""), part("l", ""), part("m", "")), n, claim(t, "c", `requests: [{name: r, exactly: {deviceClassName: gpu, count: 4}}]`)); got != "cannot allocate all claims" {
		t.Errorf("four parts of a card of three: %s", got)
	}
}

// TestPromise checks that what is promised is in use until the promise ends, and that
// what was written stays so, whatever the watch is still to show.
func TestPromise(t *testing.T) {
	s, n := state(t, `devices: [{name: g0}]`)
	c, other := claim(t, "c", one), claim(t, "other", one)
	s.SetClaim(c)
	w, err := s.Want([]*resourcev1.ResourceClaim{c})
	if err != nil {
		t.Fatal(err)
	}
	f, err := w.On(n)
	if err != nil {
		t.Fatal(err)
	}
	a := f.Allocations()[0]
	is := func(when, want string) {
		t.Helper()
		if got := found(s, n, other); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	s.Promise(c, a, "p1")
	s.Promise(c, a, "p2")
	is("promised to two pods", "cannot allocate all claims")
	s.Release(c.Namespace, c.Name, c.UID, "p1")
	is("promised to one", "cannot allocate all claims")
	s.Release(c.Namespace, c.Name, c.UID, "p2")
	is("promised to none", "r=g0")

	s.Promise(c, a, "p1")
	written := c.DeepCopy()
	written.ResourceVersion, written.Status.Allocation = "7", a
	s.Written(written)
	s.Release(c.Namespace, c.Name, c.UID, "p1")
	is("written", "cannot allocate all claims")
	late := c.DeepCopy()
	late.ResourceVersion = "5"
	s.SetClaim(late)
	is("the watch is behind", "cannot allocate all claims")
	again := c.DeepCopy()
	again.ResourceVersion = "9"
	s.SetClaim(again)
	is("taken away", "r=g0")
	s.SetClaim(func() *resourcev1.ResourceClaim { o := written.DeepCopy(); o.ResourceVersion = "10"; return o }())
	s.DropClaim(written)
	is("gone", "r=g0")
	s.Written(written)
	is("written before it was gone", "r=g0")
}

// TestFull checks that a claim has no more consumers than it may, those included that are on their way.
func TestFull(t *testing.T) {
	s, _ := state(t, `devices: [{name: g0}]`)
	c := claim(t, "c", one)
	c.Status.Allocation = &resourcev1.AllocationResult{}
	for i := range resourcev1.ResourceClaimReservedForMaxSize - 1 {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: "p", UID: types.UID(fmt.Sprint(i))})
	}
	s.SetClaim(c)
	if s.Full(c, "new") {
		t.Error("there is room for one more")
	}
	s.Promise(c, c.Status.Allocation, "new")
	if !s.Full(c, "newer") {
		t.Error("there is no room for two more")
	}
	if s.Full(c, "new") || s.Full(c, "3") {
		t.Error("who has it has it")
	}
}

// TestTooMany checks that a search that would take for ever ends, and says so.
func TestTooMany(t *testing.T) {
	var all []string
	for i := range 60 {
		all = append(all, fmt.Sprintf(`{name: g%02d, attributes: {x: {int: %d}}}`, i, i%20))
	}
	s, n := state(t, `devices: [`+strings.Join(all, ", ")+`]`)
	got := found(s, n, claim(t, "c", `requests: [{name: r, exactly: {deviceClassName: gpu, count: 21}}], constraints: [{distinctAttribute: gpu.example.com/x}]`))
	if !strings.Contains(got, "too many combinations") {
		t.Errorf("got %s", got)
	}
}

// TestExplain checks what is said of devices that are not to be had.
func TestExplain(t *testing.T) {
	s, n := state(t, `devices: [{name: g0}, {name: g1, taints: [{key: sick, value: very, effect: NoExecute}]}]`)
	c := claim(t, "c", one)
	w, err := s.Want([]*resourcev1.ResourceClaim{c})
	if err != nil {
		t.Fatal(err)
	}
	f, err := w.On(n)
	if err != nil {
		t.Fatal(err)
	}
	s.Promise(c, f.Allocations()[0], "p")
	w, err = s.Want([]*resourcev1.ResourceClaim{claim(t, "d", one)})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"request r asks for 1 of class gpu; of 2 that suit it 1 are in use, 1 have a taint that it does not tolerate (sick=very:NoExecute), 0 are free"}
	if got := w.Explain([]*corev1.Node{n}); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func BenchmarkOn(b *testing.B) {
	var all []string
	for i := range 8 {
		all = append(all, fmt.Sprintf(`{name: g%d, attributes: {model: {string: new}, numa: {int: %d}}}`, i, i/4))
	}
	s, n := state(b, `devices: [`+strings.Join(all, ", ")+`]`)
	c := claim(b, "c", `requests: [{name: r, exactly: {deviceClassName: gpu, count: 4, selectors: [{cel: {expression: 'device.attributes["gpu.example.com"].model == "new"'}}]}}], constraints: [{matchAttribute: gpu.example.com/numa}]`)
	for b.Loop() {
		w, err := s.Want([]*resourcev1.ResourceClaim{c})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.On(n); err != nil {
			b.Fatal(err)
		}
	}
}
