package expr

import (
	"fmt"
	"strings"

	"github.com/blang/semver/v4"
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	resourcev1 "k8s.io/api/resource/v1"
	celapi "k8s.io/apiserver/pkg/cel"
)

// A DeviceProgram is an expression about devices, ready to be asked of each: a
// selector or what derives an attribute.
type DeviceProgram struct{ run cel.Program }

// DeviceProgramOf compiles an expression. Its type shows only in what it answers.
func DeviceProgramOf(expression string) (*DeviceProgram, error) {
	env := devices().env
	ast, issues := env.Compile(expression)
	if issues != nil && issues.Err() != nil {
		return nil, &Error{"compilation failed: " + issues.String()}
	}
	run, err := env.Program(ast)
	if err != nil {
		return nil, &Error{"program instantiation failed: " + err.Error()}
	}
	return &DeviceProgram{run}, nil
}

// A DeviceView is a device as expressions see it. It may be asked by many.
type DeviceView struct{ vars map[string]any }

// ViewDevice shows a device of a driver to expressions.
func ViewDevice(driver string, d *resourcev1.Device) (*DeviceView, error) {
	attributes, capacity := map[string]map[string]any{}, map[string]map[string]any{}
	put := func(in map[string]map[string]any, name string, v any) {
		domain, id := QualifiedParts(resourcev1.QualifiedName(name), driver)
		if in[domain] == nil {
			in[domain] = map[string]any{}
		}
		in[domain][id] = v
	}
	for name, a := range d.Attributes {
		v, err := attributeValue(&a)
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		put(attributes, string(name), v)
	}
	for name, c := range d.Capacity {
		put(capacity, string(name), celapi.Quantity{Quantity: &c.Value})
	}
	return &DeviceView{map[string]any{"device": map[string]any{
		"driver":                   driver,
		"attributes":               domainsOf(attributes),
		"capacity":                 domainsOf(capacity),
		"allowMultipleAllocations": d.AllowMultipleAllocations != nil && *d.AllowMultipleAllocations,
	}}}, nil
}

// QualifiedParts are the domain, which is the driver's if none is said, and the
// rest of the name of an attribute or capacity.
func QualifiedParts(name resourcev1.QualifiedName, driver string) (domain, id string) {
	if domain, id, ok := strings.Cut(string(name), "/"); ok {
		return domain, id
	}
	return driver, string(name)
}

func attributeValue(a *resourcev1.DeviceAttribute) (any, error) {
	version := func(s string) (any, error) {
		v, err := semver.Parse(s)
		return celapi.Semver{Version: v}, err
	}
	switch {
	case a.IntValue != nil:
		return *a.IntValue, nil
	case a.BoolValue != nil:
		return *a.BoolValue, nil
	case a.StringValue != nil:
		return *a.StringValue, nil
	case a.VersionValue != nil:
		return version(*a.VersionValue)
	case a.IntValues != nil:
		return a.IntValues, nil
	case a.BoolValues != nil:
		return a.BoolValues, nil
	case a.StringValues != nil:
		return a.StringValues, nil
	}
	all := make([]any, 0, len(a.VersionValues))
	for _, s := range a.VersionValues {
		v, err := version(s)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// domains is a map in which everything that is not there is an empty map.
type domains struct{ traits.Mapper }

var noDomain = types.NewStringInterfaceMap(types.DefaultTypeAdapter, map[string]any{})

func domainsOf(in map[string]map[string]any) domains {
	out := map[string]any{}
	for domain, m := range in {
		out[domain] = types.NewStringInterfaceMap(types.DefaultTypeAdapter, m)
	}
	return domains{types.NewStringInterfaceMap(types.DefaultTypeAdapter, out)}
}

// Find is that of a map that has every key.
func (d domains) Find(key ref.Val) (ref.Val, bool) {
	if v, ok := d.Mapper.Find(key); ok {
		return v, true
	}
	return noDomain, true
}

// Get is [domains.Find].
func (d domains) Get(key ref.Val) ref.Val {
	v, _ := d.Find(key)
	return v
}

// Matches says whether a selector is true of a device.
func (p *DeviceProgram) Matches(d *DeviceView) (bool, error) {
	v, _, err := p.run.Eval(d.vars)
	if err != nil {
		return false, err
	}
	is, ok := v.Value().(bool)
	if !ok {
		return false, fmt.Errorf("it is %v; it must be true or false", v.Type())
	}
	return is, nil
}

// Derive is the attribute that an expression makes of a device.
func (p *DeviceProgram) Derive(d *DeviceView) (a resourcev1.DeviceAttribute, err error) {
	v, _, err := p.run.Eval(d.vars)
	if err != nil {
		return a, err
	}
	add := func(v ref.Val) error {
		switch x := v.(type) {
		case types.Int:
			a.IntValues = append(a.IntValues, int64(x))
		case types.Bool:
			a.BoolValues = append(a.BoolValues, bool(x))
		case types.String:
			a.StringValues = append(a.StringValues, string(x))
		case celapi.Semver:
			a.VersionValues = append(a.VersionValues, x.String())
		default:
			return fmt.Errorf("it is %v; it must be a string, int, bool or semver, or a list of these", v.Type())
		}
		return nil
	}
	list, ok := v.(traits.Lister)
	if !ok {
		return a, add(v)
	}
	for it := list.Iterator(); it.HasNext() == types.True; {
		if err := add(it.Next()); err != nil {
			return a, err
		}
	}
	return a, nil
}
