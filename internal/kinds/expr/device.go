package expr

import (
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/ext"
	resourcev1 "k8s.io/api/resource/v1"
	celapi "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/library"
)

// Device compiles a selector of devices (resource.k8s.io/v1, CELDeviceSelector):
// it sees "device". It answers the most that one evaluation can cost, or an
// [*Error].
func Device(expression string) (cost uint64, err error) {
	return device(expression, func(t *cel.Type) string {
		if t.IsExactType(cel.BoolType) || t.IsExactType(cel.AnyType) || t.IsExactType(cel.DynType) {
			return ""
		}
		return fmt.Sprintf("must evaluate to %v or the unknown type, not %v", cel.BoolType, t)
	})
}

func device(expression string, wrong func(*cel.Type) string) (cost uint64, err error) {
	d := devices()
	ast, err := compile(d.env, expression, wrong)
	if err != nil {
		return 0, err
	}
	estimate, err := d.env.EstimateCost(ast, &library.CostEstimator{SizeEstimator: d})
	if err != nil {
		return 0, &Error{"cost estimation failed: " + err.Error()}
	}
	return estimate.Max, nil
}

// A deviceLanguage is the language of device selectors, and knows how big things can be there.
type deviceLanguage struct {
	env    *cel.Env
	device *celapi.DeclType
}

var devices = sync.OnceValue(func() *deviceLanguage {
	const most = resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice
	sized := func(t celapi.DeclType, n int64) *celapi.DeclType {
		t.MaxElements = n
		return &t
	}
	domain, id := sized(*celapi.StringType, resourcev1.DeviceMaxDomainLength), sized(*celapi.StringType, resourcev1.DeviceMaxIDLength)
	value := sized(*celapi.AnyType, resourcev1.DeviceAttributeMaxValueLength)
	of := func(t *celapi.DeclType) *celapi.DeclType {
		return celapi.NewMapType(domain, celapi.NewMapType(id, t, most), most)
	}
	device := object("kubernetes.DRADevice", map[string]*celapi.DeclType{
		"driver":                   sized(*celapi.StringType, resourcev1.DriverNameMaxLength),
		"attributes":               of(value),
		"capacity":                 of(celapi.QuantityDeclType),
		"allowMultipleAllocations": celapi.BoolType,
	}, "driver", "attributes", "capacity", "allowMultipleAllocations")
	return &deviceLanguage{device: device, env: extend(base(), []*celapi.DeclType{device},
		cel.Variable("device", device.CelType()), ext.Bindings(ext.BindingsVersion(0)))}
})

// EstimateSize is how many bytes or elements a part of the device can have.
func (d *deviceLanguage) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	path := node.Path()
	if len(path) == 0 || path[0] != "device" {
		return nil
	}
	t := d.device
	for _, step := range path[1:] {
		switch {
		case step == "@items" || step == "@values":
			t = t.ElemType
		case step == "@keys":
			t = t.KeyType
		default:
			if f, ok := t.Fields[step]; ok {
				t = f.Type
			} else if t = t.ElemType; t == nil {
				return nil
			}
		}
		if t == nil {
			return nil
		}
	}
	if t.MaxElements < 0 {
		return nil
	}
	return &checker.SizeEstimate{Max: uint64(t.MaxElements)}
}

// EstimateCallCost leaves the cost of calls to the libraries.
func (d *deviceLanguage) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

// DeviceAttribute compiles an expression that answers a value of an attribute
// derived from a device (resource.k8s.io/v1, DeviceDerivedAttribute), or a list
// of such values. Otherwise it is like [Device].
func DeviceAttribute(expression string) (cost uint64, err error) {
	return device(expression, func(t *cel.Type) string {
		v := t
		if t.Kind() == cel.ListKind {
			v = t.Parameters()[0]
		}
		for _, ok := range []*cel.Type{cel.BoolType, cel.IntType, cel.StringType, celapi.SemverType, cel.AnyType, cel.DynType} {
			if v.IsExactType(ok) {
				return ""
			}
		}
		return fmt.Sprintf("must evaluate to a string, int, bool or semver, or to a list of these, not %v", t)
	})
}
