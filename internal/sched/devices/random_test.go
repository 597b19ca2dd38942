package devices_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/sched/devices"
)

// A thing is a device as TestOracle makes them up.
type thing struct {
	name   string
	color  string // empty if it has none
	numa   int    // -1 if it has none
	tall   bool
	sick   bool // tainted
	taken  bool
	weight int // of the counter
}

// An ask is one way to serve a request.
type ask struct {
	name        string
	color       string // wanted; any if empty
	count       int    // all if 0
	tall, brave bool
}

// An order is a claim: requests, each with its alternatives, and what their devices
// have to have in common or not.
type order struct {
	requests    [][]ask
	matchNuma   bool
	distinctCol bool
}

func randomThings(r *rand.Rand) (out []thing) {
	for i := range 1 + r.IntN(5) {
		out = append(out, thing{
			name: fmt.Sprint("d", i), color: []string{"", "red", "blue"}[r.IntN(3)], numa: r.IntN(3) - 1, tall: r.IntN(2) == 0,
			sick: r.IntN(5) == 0, taken: r.IntN(6) == 0, weight: r.IntN(3),
		})
	}
	return out
}

func randomOrder(r *rand.Rand, n int) order {
	o := order{matchNuma: r.IntN(3) == 0, distinctCol: r.IntN(4) == 0}
	for i := range 1 + r.IntN(2) {
		var all []ask
		for j := range 1 + r.IntN(2) {
			all = append(all, ask{name: fmt.Sprintf("c%dr%d/a%d", n, i, j), color: []string{"", "", "red"}[r.IntN(3)], count: r.IntN(3), tall: r.IntN(4) == 0, brave: r.IntN(3) == 0})
		}
		if len(all) == 1 {
			all[0].name = fmt.Sprintf("c%dr%d", n, i)
		}
		o.requests = append(o.requests, all)
	}
	return o
}

func (a ask) suits(d thing) bool { return (a.color == "" || a.color == d.color) && (!a.tall || d.tall) }

// A given is a device for an alternative of a request of an order.
type given struct {
	order, thing int
	ask          ask
}

// allowed says whether all that was given may be given together; it looks at the whole, not step by step.
func allowed(things []thing, orders []order, all []given, counter int) bool {
	seen, weight := map[int]bool{}, 0
	for _, d := range things {
		if d.taken {
			weight += d.weight
		}
	}
	for _, g := range all {
		d := things[g.thing]
		if seen[g.thing] || d.taken || d.sick && !g.ask.brave || !g.ask.suits(d) {
			return false
		}
		seen[g.thing] = true
		weight += d.weight
		for _, o := range all {
			e := things[o.thing]
			if o.order != g.order {
				continue
			}
			if orders[g.order].matchNuma && (d.numa < 0 || d.numa != e.numa) {
				return false
			}
			if orders[g.order].distinctCol && (d.color == "" || g.thing != o.thing && d.color == e.color) {
				return false
			}
		}
	}
	return weight <= counter
}

// best tries everything there is, and returns the alternatives that serve all
// orders, the earlier ones before the others; nil if none do.
func best(things []thing, orders []order, counter int) []string {
	var flat []struct {
		order int
		all   []ask
	}
	for i, o := range orders {
		for _, all := range o.requests {
			flat = append(flat, struct {
				order int
				all   []ask
			}{i, all})
		}
	}
	var try func(at int, so []given, names []string) []string
	try = func(at int, so []given, names []string) []string {
		if at == len(flat) {
			if allowed(things, orders, so, counter) {
				return slices.Clone(names)
			}
			return nil
		}
		for _, a := range flat[at].all {
			for set := range 1 << len(things) {
				next, suiting := slices.Clone(so), 0
				ok := true
				for i, d := range things {
					in := set&(1<<i) != 0
					if a.suits(d) {
						suiting++
						ok = ok && (a.count > 0 || in)
					} else {
						ok = ok && !in
					}
					if in {
						next = append(next, given{flat[at].order, i, a})
					}
				}
				n := len(next) - len(so)
				if !ok || a.count > 0 && n != a.count || n == 0 {
					continue
				}
				if found := try(at+1, next, append(slices.Clone(names), a.name)); found != nil {
					return found
				}
			}
		}
		return nil
	}
	return try(0, nil, nil)
}

func (a ask) yaml(of string) string {
	sel := []string{`{cel: {expression: 'device.driver == "x"'}}`}
	if a.color != "" {
		sel = append(sel, fmt.Sprintf(`{cel: {expression: 'device.attributes["x"].?color.orValue("") == "%s"'}}`, a.color))
	}
	if a.tall {
		sel = append(sel, `{cel: {expression: 'device.capacity["x"].size.compareTo(quantity("10")) >= 0'}}`)
	}
	out := fmt.Sprintf(`%sdeviceClassName: gpu, selectors: [%s]`, of, strings.Join(sel, ", "))
	if a.count == 0 {
		out += `, allocationMode: All`
	} else {
		out += fmt.Sprintf(`, allocationMode: ExactCount, count: %d`, a.count)
	}
	if a.brave {
		out += `, tolerations: [{key: sick, operator: Exists}]`
	}
	return out
}

func (o order) yaml() string {
	var requests, constraints []string
	for _, all := range o.requests {
		if len(all) == 1 {
			requests = append(requests, fmt.Sprintf(`{name: %s, exactly: {%s}}`, all[0].name, all[0].yaml("")))
			continue
		}
		var subs []string
		name := ""
		for _, a := range all {
			var sub string
			name, sub, _ = strings.Cut(a.name, "/")
			subs = append(subs, "{"+a.yaml("name: "+sub+", ")+"}")
		}
		requests = append(requests, fmt.Sprintf(`{name: %s, firstAvailable: [%s]}`, name, strings.Join(subs, ", ")))
	}
	if o.matchNuma {
		constraints = append(constraints, `{matchAttribute: x/numa}`)
	}
	if o.distinctCol {
		constraints = append(constraints, `{distinctAttribute: x/color}`)
	}
	return fmt.Sprintf(`requests: [%s], constraints: [%s]`, strings.Join(requests, ", "), strings.Join(constraints, ", "))
}

func publish(t testing.TB, s *devices.State, things []thing, counter int) {
	var all []string
	for _, d := range things {
		var attributes []string
		if d.color != "" {
			attributes = append(attributes, "color: {string: "+d.color+"}")
		}
		if d.numa >= 0 {
			attributes = append(attributes, fmt.Sprintf("x/numa: {int: %d}", d.numa))
		}
		size, taints := 5, ""
		if d.tall {
			size = 20
		}
		if d.sick {
			taints = "{key: sick, effect: NoSchedule}"
		}
		all = append(all, fmt.Sprintf(`{name: %s, attributes: {%s}, capacity: {size: {value: "%d"}}, taints: [%s], consumesCounters: [{counterSet: c, counters: {w: {value: "%d"}}}]}`,
			d.name, strings.Join(attributes, ", "), size, taints, d.weight))
	}
	for i, part := range []string{`devices: [` + strings.Join(all, ", ") + `]`, fmt.Sprintf(`sharedCounters: [{name: c, counters: {w: {value: "%d"}}}]`, counter)} {
		n := &resourcev1.ResourceSlice{}
		parse(t, n, fmt.Sprintf(`{metadata: {name: s%d}, spec: {driver: x, allNodes: true, pool: {name: p, generation: 1, resourceSliceCount: 2}, %s}}`, i, part))
		s.SetSlice(n)
	}
}

// TestOracle has random claims served from random pools, and compares with trying
// everything: devices are found if and only if there are any, what is found is allowed,
// and no earlier alternative could have been served.
func TestOracle(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	served := 0
	for i := range uint64(200) {
		r := rand.New(rand.NewPCG(seed+i, 0))
		things, counter := randomThings(r), 2+r.IntN(6)
		orders := []order{randomOrder(r, 0)}
		if r.IntN(2) == 0 {
			orders = append(orders, randomOrder(r, 1))
		}
		s := devices.NewState()
		s.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}})
		publish(t, s, things, counter)
		for _, d := range things {
			if d.taken {
				c := claim(t, "has-"+d.name, "")
				c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
					{Request: "r", Driver: "x", Pool: "p", Device: d.name}}}}
				s.SetClaim(c)
			}
		}
		var claims []*resourcev1.ResourceClaim
		text := ""
		for i, o := range orders {
			claims = append(claims, claim(t, fmt.Sprint("c", i), o.yaml()))
			text += "\n" + o.yaml()
		}
		w, err := s.Want(claims)
		if err != nil {
			t.Fatal(err)
		}
		f, err := w.On(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
		want := best(things, orders, counter)
		if (err == nil) != (want != nil) {
			t.Fatalf("seed %d: %v, trying everything says %v\n%+v, counter %d%s", seed+i, err, want, things, counter, text)
		}
		if err != nil {
			continue
		}
		served++
		var all []given
		var names []string
		for i, a := range f.Allocations() {
			for _, res := range a.Devices.Results {
				g := given{order: i, thing: slices.IndexFunc(things, func(d thing) bool { return d.name == res.Device })}
				for _, req := range orders[i].requests {
					for _, k := range req {
						if k.name == res.Request {
							g.ask = k
						}
					}
				}
				all = append(all, g)
				if !slices.Contains(names, res.Request) {
					names = append(names, res.Request)
				}
			}
		}
		if !allowed(things, orders, all, counter) || !slices.Equal(names, want) {
			t.Fatalf("seed %d: %v by %v; best are %v\n%+v, counter %d%s", seed+i, all, names, want, things, counter, text)
		}
	}
	t.Logf("%d of 200 served; first seed %d", served, seed)
	if served < 20 {
		t.Errorf("only %d of 200 are served at all", served)
	}
}
