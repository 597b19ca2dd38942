package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const fractional = "fractional byte value %q is invalid, must be an integer"

// A portAt is a port of a container, and where it is.
type portAt struct {
	port *corev1.ContainerPort
	list string
	i, k int
}

func (p portAt) in(path *field.Path) *field.Path {
	return path.Child(p.list).Index(p.i).Child("ports").Index(p.k)
}

func (w *warner) containers(s *corev1.PodSpec, path *field.Path) {
	var ports []portAt
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		w.container(c, path, "initContainers", i)
		if Sidecar(c) {
			ports = w.ports(c, ports, path, "initContainers", i)
		}
	}
	for i := range s.Containers {
		w.container(&s.Containers[i], path, "containers", i)
		ports = w.ports(&s.Containers[i], ports, path, "containers", i)
	}
}

// fractions says whether a quantity of what is counted in bytes has a part of one.
func fractions(name corev1.ResourceName, q *resource.Quantity) bool {
	return (name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage) && q.MilliValue()%1000 != 0
}

func (w *warner) container(c *corev1.Container, path *field.Path, list string, i int) {
	for r, q := range c.Resources.Requests {
		if fractions(r, &q) {
			w.say(path.Child(list).Index(i).Child("resources", "requests").Key(string(r)), fractional, q.String())
		}
	}
	for r, q := range c.Resources.Limits {
		if fractions(r, &q) {
			w.say(path.Child(list).Index(i).Child("resources", "limits").Key(string(r)), fractional, q.String())
		}
	}
	if len(c.Env) < 2 {
		return
	}
	seen := make(map[string]bool, len(c.Env))
	for k := range c.Env {
		e := &c.Env[k]
		// Its own earlier value may be part of the new one.
		own := "$(" + e.Name + ")"
		extends := e.ValueFrom == nil && e.Value != own && strings.Contains(e.Value, own)
		if seen[e.Name] && !extends {
			w.say(path.Child(list).Index(i).Child("env").Index(k), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
		seen[e.Name] = true
	}
}

// ports warns of ports that are there twice, or that get in each other's way.
func (w *warner) ports(c *corev1.Container, have []portAt, path *field.Path, list string, i int) []portAt {
	for k := range c.Ports {
		p := &c.Ports[k]
		this := portAt{p, list, i, k}
		if p.HostIP != "" && p.HostPort == 0 {
			w.say(this.in(path), "hostIP set without hostPort: %+v", *p)
		}
		for _, o := range have {
			if o.port.ContainerPort != p.ContainerPort || o.port.Protocol != p.Protocol {
				continue
			}
			switch same := o.port.HostPort == p.HostPort; {
			case same && o.port.HostIP == p.HostIP:
				w.say(this.in(path), "duplicate port definition with %s", o.in(path))
			case p.HostPort == 0 || o.port.HostPort == 0:
				w.say(this.in(path), "overlapping port definition with %s", o.in(path))
			case same && (p.HostIP == "") != (o.port.HostIP == ""):
				w.say(this.in(path), "dangerously ambiguous port definition with %s", o.in(path))
			}
		}
		have = append(have, this)
	}
	return have
}
