package main

import (
	"strings"
	"time"

	"proa/test/bench/load"
	"proa/test/bench/measure"
)

// A contestant creates objects.
type contestant struct {
	load.Contestant
	prefix string // of names, where one server has two contestants
	cpu    func() time.Duration
	syncs  func() (float64, error)
}

// An arena is the contestants, running.
type arena struct {
	dir   string
	all   map[string]contestant
	stops []func()
}

func (a *arena) stop() {
	for i := len(a.stops) - 1; i >= 0; i-- {
		a.stops[i]()
	}
}

// start starts what the settings ask for.
func (a *arena) start(s settings, refs string) error {
	id, err := measure.NewIdentity(a.dir)
	if err != nil {
		return err
	}
	starters := []struct {
		name  string
		start func() (*measure.Pods, error)
	}{
		{"proa", func() (*measure.Pods, error) { return measure.StartProa(serverCore, a.dir) }},
		{"typed", func() (*measure.Pods, error) { return measure.StartTyped(serverCore, refs, a.dir, id) }},
		{"crd", func() (*measure.Pods, error) { return measure.StartCRDPods(serverCore, refs, a.dir, id) }},
	}
	for _, x := range starters {
		if !s.has(x.name) && !s.has(x.name+"-pb") && !(x.name == "typed" && s.has("etcd")) {
			continue
		}
		p, err := x.start()
		if err != nil {
			return err
		}
		a.stops = append(a.stops, p.Stop)
		a.all[x.name] = contestant{poster(p.Target, p.Path, p.JSON, "application/json"), "", p.CPU, p.Syncs}
		if p.Protobuf != "" {
			a.all[x.name+"-pb"] = contestant{poster(p.Target, p.Path, p.Protobuf, "application/vnd.kubernetes.protobuf"), "b", p.CPU, p.Syncs}
		}
		if x.name == "typed" {
			puts := load.Putter{Address: p.Etcd.Secure, TLS: p.TLS, Body: func(name string) []byte { return []byte(named(p.JSON, name)) }}
			cpu := func() time.Duration {
				used, err := measure.CPU(p.Etcd.PID())
				if err != nil {
					return 0 // it has ended: the next put will say so
				}
				return used
			}
			a.all["etcd"] = contestant{puts, "", cpu, p.Syncs}
		}
	}
	if !s.has("server") {
		return nil
	}
	p, t, err := startBare(serverCore, a.dir, id)
	if err != nil {
		return err
	}
	a.stops = append(a.stops, p.Stop)
	server := measure.Pods{Processes: []*measure.Process{p}}
	a.all["server"] = contestant{poster(t, "/api/v1/namespaces/default/pods", measure.Pod("v1"), "application/json"), "",
		server.CPU, func() (float64, error) { return 0, nil }}
	return nil
}

func named(body, name string) string {
	return strings.Replace(body, measure.NameMark, measure.Name(name), 1)
}

// poster posts objects to a server.
func poster(t measure.Target, path, body, typ string) load.Asker {
	return load.Asker{Target: t, Next: func(name string) *load.Request {
		return &load.Request{Method: "POST", Path: path, Type: typ, Accept: typ, Body: []byte(named(body, name))}
	}}
}
