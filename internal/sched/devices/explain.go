package devices

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
)

// Explain says in words why a claim's requests can not be served on any of the nodes.
func (w *Want) Explain(nodes []*corev1.Node) (out []string) {
	for _, c := range w.claims {
		for _, r := range c.requests {
			for _, a := range r.of {
				out = append(out, w.explain(a, nodes))
			}
		}
	}
	return out
}

func (w *Want) explain(a *alternative, nodes []*corev1.Node) string {
	seen := map[*device]bool{}
	var match, used, tainted, free int
	var taint *resourcev1.DeviceTaint
	var failed error
	bad := ""
	for _, n := range nodes {
		for _, p := range w.s.poolsOf(n) {
			if p.bad != "" {
				bad = p.driver + "/" + p.name + " " + p.bad
				continue
			}
			for _, d := range p.devices {
				if seen[d] || !d.reaches(n) {
					continue
				}
				seen[d] = true
				ok, err := d.meets(a.sel)
				if err != nil {
					failed = err
				}
				if !ok || !d.roomy(a.capacity) {
					continue
				}
				match++
				t := repelled(w.s.taintsOf(d.id, d.Taints), a.tolerations)
				u := w.s.used[d.id]
				switch {
				case !a.admin && u != nil && (!d.shared || u.whole > 0):
					used++
				case t != nil:
					taint = t
					tainted++
				default:
					free++
				}
			}
		}
	}
	asks := fmt.Sprintf("%d of class %s", a.count, a.class.Name)
	if a.all {
		asks = fmt.Sprintf("all of class %s", a.class.Name)
	}
	text := fmt.Sprintf("request %s asks for %s", a.name, asks)
	switch {
	case failed != nil:
		return text + fmt.Sprintf("; %v", failed)
	case bad != "":
		return text + fmt.Sprintf("; pool %s", bad)
	case match == 0 && len(seen) == 0:
		return text + "; no driver has published devices for any node"
	case match == 0:
		return text + fmt.Sprintf("; none of %d devices is what it asks for", len(seen))
	}
	text += fmt.Sprintf("; of %d that suit it %d are in use", match, used)
	if taint != nil {
		text += fmt.Sprintf(", %d have a taint that it does not tolerate (%s)", tainted, TaintText(taint))
	}
	return text + fmt.Sprintf(", %d are free", free)
}

// TaintText is a taint as people write it.
func TaintText(t *resourcev1.DeviceTaint) string {
	text := t.Key
	if t.Value != "" {
		text += "=" + t.Value
	}
	return text + ":" + string(t.Effect)
}
