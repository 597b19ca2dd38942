package conformance

import (
	"fmt"
	"slices"
	"strings"
)

// judge compares an answer with what is expected.
func (p *play) judge(w *want, a *answer) error {
	m := &matcher{vars: p.vars}
	if a.code != w.code {
		m.fail("code", "got %d, want %d", a.code, w.code)
	}
	if w.reason != "" {
		m.match("reason", field(a.body, "reason"), w.reason)
	}
	if w.message != "" {
		text, err := p.vars.expandAll(w.message)
		if err != nil {
			return err
		}
		m.match("message", field(a.body, "message"), text)
	}
	for _, h := range w.headers {
		text, err := p.vars.expandAll(h[1])
		if err != nil {
			return err
		}
		var got any
		if v := a.headers.Values(h[0]); len(v) > 0 {
			got = strings.Join(v, ", ")
		}
		if text == "" {
			text = nil
		}
		m.match("header "+h[0], got, text)
	}
	if err := p.judgeWarnings(m, w, a); err != nil {
		return err
	}
	if err := p.judgeCauses(m, w, a); err != nil {
		return err
	}
	if w.body != "" {
		want, err := parseYAML(w.body)
		if err != nil {
			return fmt.Errorf("the expectation is no YAML: %w", err)
		}
		if want, err = p.vars.expandAll(want); err != nil {
			return err
		}
		m.match("", a.body, want)
	}
	if len(m.diff) == 0 {
		return nil
	}
	return fmt.Errorf("\n  %s\n  the answer (%d):\n%s", strings.Join(m.diff, "\n  "), a.code, showAll(a.body))
}

func (p *play) judgeWarnings(m *matcher, w *want, a *answer) error {
	if w.silent && len(a.warnings) > 0 {
		m.fail("warnings", "got %q, want none", a.warnings)
	}
	if len(w.warnings) == 0 {
		return nil
	}
	if len(w.warnings) != len(a.warnings) {
		m.fail("warnings", "got %q, want %q", a.warnings, w.warnings)
		return nil
	}
	for i, text := range w.warnings {
		want, err := p.vars.expandAll(text)
		if err != nil {
			return err
		}
		m.match(fmt.Sprintf("warning %d", i+1), a.warnings[i], want)
	}
	return nil
}

// judgeCauses compares the causes of an error: all of them, in any order, each once.
func (p *play) judgeCauses(m *matcher, w *want, a *answer) error {
	if len(w.causes) == 0 {
		return nil
	}
	list, _ := field(field(a.body, "details"), "causes").([]any)
	var got []any
	for _, c := range list {
		if text := fmt.Sprint(field(c, "field"), ": ", field(c, "message")); !slices.Contains(got, any(text)) {
			got = append(got, text)
		}
	}
	want := []any{"..."}
	for _, c := range w.causes {
		text, err := p.vars.expandAll(c)
		if err != nil {
			return err
		}
		want = append(want, text)
	}
	if len(got) != len(w.causes) {
		m.fail("causes", "got %d, want %d: %s", len(got), len(w.causes), show(list))
		return nil
	}
	m.match("causes", got, want)
	return nil
}

func field(body any, name string) any {
	m, _ := body.(map[string]any)
	return m[name]
}
