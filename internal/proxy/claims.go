package proxy

// The maps that follow the cluster, in the order in which they are written:
// what is looked up last is there first.
const (
	inEndpoints = iota
	inHairpin
	inSticky
	inFrontends
	inInternal
	maps
)

var mapNames = [maps]string{setEndpoints, setHairpin, setSticky, setFrontends, setInternal}

// claims is the union of all parts: for each map, which value each key has, and
// who wants it. When parts disagree about a key, the one with the lowest name
// wins, and the others have it when that one goes.
type claims struct {
	by      [maps]map[string]claim
	changed [maps]map[string]bool
}

type claim struct {
	value, owner string
	rest         []claim // of higher owners, ordered
}

func newClaims() (c claims) {
	for i := range c.by {
		c.by[i] = map[string]claim{}
		c.changed[i] = map[string]bool{}
	}
	return c
}

// replace changes what owner wants from old to new, either of which may be nil.
func (c *claims) replace(owner string, old, new *Part) {
	var keep [maps]map[string]string
	new.each(func(m int, key, value string) {
		if keep[m] == nil {
			keep[m] = map[string]string{}
		}
		keep[m][key] = value
	})
	old.each(func(m int, key, value string) {
		if v, ok := keep[m][key]; !ok || v != value {
			c.drop(m, key, owner)
		}
	})
	for m := range keep {
		for key, value := range keep[m] {
			c.claim(m, key, claim{value: value, owner: owner})
		}
	}
}

func (c *claims) claim(m int, key string, n claim) {
	have, ok := c.by[m][key]
	switch {
	case !ok:
		c.by[m][key] = n
		c.changed[m][key] = true
	case have.owner == n.owner:
		if have.value != n.value {
			have.value = n.value
			c.by[m][key] = have
			c.changed[m][key] = true
		}
	case n.owner < have.owner:
		if have.value != n.value {
			c.changed[m][key] = true
		}
		rest := have.rest
		have.rest = nil
		n.rest = append([]claim{have}, rest...)
		c.by[m][key] = n
	default:
		rest := make([]claim, 0, len(have.rest)+1)
		placed := false
		for _, r := range have.rest {
			if !placed && n.owner <= r.owner {
				rest, placed = append(rest, n), true
			}
			if r.owner != n.owner {
				rest = append(rest, r)
			}
		}
		if !placed {
			rest = append(rest, n)
		}
		have.rest = rest
		c.by[m][key] = have
	}
}

func (c *claims) drop(m int, key, owner string) {
	have, ok := c.by[m][key]
	if !ok {
		return
	}
	if have.owner != owner {
		for i, r := range have.rest {
			if r.owner == owner {
				have.rest = append(have.rest[:i:i], have.rest[i+1:]...)
				c.by[m][key] = have
				return
			}
		}
		return
	}
	if len(have.rest) == 0 {
		delete(c.by[m], key)
		c.changed[m][key] = true
		return
	}
	next := have.rest[0]
	next.rest = have.rest[1:]
	if next.value != have.value {
		c.changed[m][key] = true
	}
	c.by[m][key] = next
}

// each yields every entry of a part.
func (p *Part) each(yield func(m int, key, value string)) {
	if p == nil {
		return
	}
	f := ipv4
	for i := range p.Frontends {
		fr := &p.Frontends[i]
		m := inFrontends
		if fr.Internal {
			m = inInternal
		}
		yield(m, f.keyBytes(fr.Key), frontendBytes(fr))
	}
	for _, g := range p.Groups {
		for i, e := range g.Slots {
			end := f.endBytes(e)
			yield(inEndpoints, slotBytes(g.ID, i), end)
			if g.Affinity > 0 {
				yield(inSticky, string(g.ID[:])+end, "")
			}
		}
	}
	for _, ip := range p.Hairpin {
		b := string(ip.AsSlice())
		yield(inHairpin, b+b, "")
	}
}
