package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
)

// A play is one row under way, one way.
type play struct {
	w       *world
	via     caller
	vars    vars
	user    string // as the row has said
	watches map[string]<-chan event
	objects objects
	defined map[string]json.RawMessage // an object of each kind that the row has defined
	names   []string                   // of its definitions
}

// run plays the row and returns what was not as expected; nil if all was.
func (p *play) run(ctx context.Context, r *row) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.watches, p.defined = map[string]<-chan event{}, map[string]json.RawMessage{}
	for _, s := range r.steps {
		if err := p.step(ctx, &s); err != nil {
			return fmt.Errorf("line %d: %s %s%s: %w", s.line, s.method, s.watch, s.path, err)
		}
	}
	return nil
}

func (p *play) step(ctx context.Context, s *step) error {
	switch {
	case s.as != "":
		p.user = s.as
		return nil
	case s.method == "DEFINE":
		return p.define(ctx, s)
	case s.method == "EVENTS":
		return p.events(ctx, s)
	case s.method == "CLOSED":
		return p.closed(s)
	case s.until:
		end := time.Now().Add(patience)
		for {
			err := p.once(ctx, s)
			if err == nil || time.Now().After(end) || ctx.Err() != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	for i := range max(s.times, 1) {
		if s.times > 1 {
			p.vars["i"] = strconv.Itoa(i + 1)
		}
		if err := p.once(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// until asks again and again until the answer is as expected.
func (p *play) until(ctx context.Context, s *step) error {
	end := time.Now().Add(p.w.patience())
	for pause := 10 * time.Millisecond; ; pause = min(pause*3/2, 200*time.Millisecond) {
		err := p.once(ctx, s)
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(pause)
	}
}

func (p *play) once(ctx context.Context, s *step) error {
	q, err := p.ask(s)
	if err != nil {
		return err
	}
	a, err := p.via.call(ctx, q)
	if err != nil {
		return err
	}
	if s.method == "WATCH" {
		if s.want.code == 0 {
			s.want.code = http.StatusOK
		}
		if a.events != nil {
			p.watches[s.watch] = a.events
		}
	}
	if s.method == "TABLE" && a.code == http.StatusOK {
		a.body = tableOf(a.body)
	}
	return p.judge(&s.want, a)
}

var patchTypes = map[string]types.PatchType{
	"MERGE": types.MergePatchType, "STRATEGIC": types.StrategicMergePatchType, "JSONPATCH": types.JSONPatchType, "APPLY": types.ApplyYAMLPatchType,
}

const (
	acceptTable   = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
	acceptPartial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
)

func (p *play) ask(s *step) (*ask, error) {
	q := &ask{method: s.method, typ: api.MediaJSON, watch: s.method == "WATCH"}
	if err := p.identify(q); err != nil {
		return nil, err
	}
	var err error
	if q.path, err = p.vars.expand(s.path); err != nil {
		return nil, err
	}
	q.path = fullPath(q.path, p.vars["ns"])
	switch s.method {
	case "TABLE":
		q.method, q.headers = http.MethodGet, [][2]string{{"Accept", acceptTable}}
	case "PARTIAL":
		q.method, q.headers = http.MethodGet, [][2]string{{"Accept", acceptPartial}}
	case "WATCH":
		q.method = http.MethodGet
		if strings.Contains(q.path, "?") {
			q.path += "&watch=true"
		} else if !strings.Contains(q.path, "/watch/") {
			q.path += "?watch=true"
		}
	}
	if typ := patchTypes[s.method]; typ != "" {
		q.method, q.typ = http.MethodPatch, string(typ)
	}
	for _, h := range s.headers {
		value, err := p.vars.expand(h[1])
		if err != nil {
			return nil, err
		}
		if strings.EqualFold(h[0], "Content-Type") {
			q.typ = value
		}
		q.headers = append(q.headers, [2]string{h[0], value})
	}
	q.body, err = p.body(s)
	q.raw = s.raw
	return q, err
}

func (p *play) identify(q *ask) (err error) {
	user, err := p.vars.expand(p.user)
	if err != nil {
		return err
	}
	words := strings.Fields(user)
	switch {
	case len(words) == 0 || user == "admin":
		q.user = admin
	case user == "nobody":
		q.nobody = true
	case words[0] == "token":
		q.token = words[1]
	default:
		q.user = api.User{Name: words[0], Groups: append(words[1:], api.GroupAuthenticated)}
	}
	return nil
}

func (p *play) body(s *step) ([]byte, error) {
	if s.body == "" {
		return nil, nil
	}
	if s.literal {
		return []byte(s.body), nil
	}
	if s.raw {
		text, err := p.vars.expand(strings.TrimSuffix(s.body, "\n"))
		return []byte(text), err
	}
	v, err := parseYAML(s.body)
	if err != nil {
		return nil, fmt.Errorf("the body is no YAML: %w", err)
	}
	if v, err = p.vars.expandAll(v); err != nil {
		return nil, err
	}
	if m, ok := v.(map[string]any); ok && m["like"] != nil {
		like := fmt.Sprint(m["like"])
		delete(m, "like")
		base := p.objects
		if p.defined[like] != nil {
			base = p.defined
		}
		if v, err = base.with(like, m); err != nil {
			return nil, err
		}
	}
	return json.Marshal(v)
}

// fullPath is a path that may be relative to the row's namespace.
func fullPath(path, ns string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	parts := strings.SplitN(path, "/", 3)
	if len(parts) == 3 && versionName.MatchString(parts[1]) {
		return "/apis/" + parts[0] + "/" + parts[1] + "/namespaces/" + ns + "/" + parts[2]
	}
	return "/api/v1/namespaces/" + ns + "/" + path
}

var versionName = regexp.MustCompile(`^v\d+([a-z]+\d+)?$`)

func (p *play) events(ctx context.Context, s *step) error {
	want, err := parseYAML(s.want.body)
	if err != nil {
		return err
	}
	list, ok := want.([]any)
	if !ok || len(list) == 0 {
		return fmt.Errorf("EVENTS wants a list of events")
	}
	in := p.watches[s.watch]
	if in == nil {
		return fmt.Errorf("no watch is called %s", s.watch)
	}
	for i, w := range list {
		if w, err = p.vars.expandAll(w); err != nil {
			return err
		}
		select {
		case e, open := <-in:
			if !open {
				return fmt.Errorf("the watch ended before event %d: %s", i+1, show(w))
			}
			if e.err != nil {
				return e.err
			}
			m := &matcher{vars: p.vars}
			if m.match("", e.body, w); len(m.diff) > 0 {
				return fmt.Errorf("event %d:\n  %s\n  the event:\n%s", i+1, strings.Join(m.diff, "\n  "), showAll(e.body))
			}
		case <-time.After(p.w.patience()):
			return fmt.Errorf("no event %d: %s", i+1, show(w))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (p *play) closed(s *step) error {
	in := p.watches[s.watch]
	if in == nil {
		return fmt.Errorf("no watch is called %s", s.watch)
	}
	select {
	case e, open := <-in:
		if open {
			return fmt.Errorf("another event: %s %v", show(e.body), e.err)
		}
		return nil
	case <-time.After(p.w.patience()):
		return fmt.Errorf("it goes on")
	}
}

// tableOf is a Table in the short form that rows compare.
func tableOf(body any) any {
	t, ok := body.(map[string]any)
	if !ok || t["kind"] != "Table" {
		return body
	}
	var columns, wide, rows []any
	defs, _ := t["columnDefinitions"].([]any)
	for _, d := range defs {
		name := field(d, "name")
		columns = append(columns, name)
		if p, _ := field(d, "priority").(float64); p > 0 {
			wide = append(wide, name)
		}
	}
	list, _ := t["rows"].([]any)
	var objects []any
	for _, r := range list {
		rows = append(rows, field(r, "cells"))
		objects = append(objects, field(r, "object"))
	}
	return map[string]any{"kind": "Table", "metadata": t["metadata"], "columns": columns, "wide": wide, "rows": rows, "objects": objects}
}
