package expr

import (
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
)

// TestAdmission checks what admission expressions see, and the words of a refusal.
func TestAdmission(t *testing.T) {
	all := Sight{Params: true, Authorizer: true, Patch: true}
	for _, c := range []struct {
		expression string
		sight      Sight
		want       []*cel.Type
		wrong      string // how the error starts; nothing if it compiles
	}{
		{"true", Sight{}, Bool, ""},
		{"object.spec.replicas <= 5 && oldObject == null", Sight{}, Bool, ""},
		{"request.userInfo.groups.exists(g, g == 'a') && namespaceObject.metadata.labels['a'] == 'b'", Sight{}, Bool, ""},
		{"authorizer.group('apps').resource('deployments').check('get').allowed()", Sight{Authorizer: true}, Bool, ""},
		{"params.limit > 3", Sight{Params: true}, Bool, ""},
		{"quantity('1Gi').isGreaterThan(quantity('1Mi')) && ip('1.2.3.4').family() == 4 && semver('1.2.3').major() == 1 && isURL('x')", Sight{}, Bool, ""},
		{"[1,2].sum() == 3 && sets.contains([1], [1]) && 'a'.find('a') == 'a' && [1,2].distinct().size() == 2 && !format.named('x').hasValue()", Sight{}, Bool, ""},
		{"object.?spec.?x.orValue(1) == 1", Sight{}, Bool, ""},
		{"{'a': 1}.all(k, v, v == 1)", Sight{}, Bool, ""},
		{"'a' + object.metadata.name", Sight{}, String, ""},
		{"null", Sight{}, StringOrNil, ""},
		{"[1]", Sight{}, Anything, ""},
		{"Object{spec: Object.spec{replicas: 1}}", all, Object, ""},
		{"[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('b/c'), value: 1}]", all, Patches, ""},
		{"Object{}", Sight{}, Object, "compilation failed: ERROR: <input>:1:7: undeclared reference to 'Object' (in container '')"},
		{"oject.spec", Sight{}, Bool, "compilation failed: ERROR: <input>:1:1: undeclared reference to 'oject' (in container '')\n | oject.spec\n | ^"},
		{"params.x", Sight{}, Bool, "compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'"},
		{"request.nothing == 1", Sight{}, Bool, "compilation failed: ERROR: <input>:1:8: undefined field 'nothing'"},
		{"1 +", Sight{}, Bool, "compilation failed: ERROR: <input>:1:4: Syntax error"},
		{"1 == 'a'", Sight{}, Bool, "compilation failed: ERROR: <input>:1:3: found no matching overload for '_==_'"},
		{"'a'.matches('[')", Sight{}, Bool, "compilation failed: ERROR: <input>:1:13: invalid matches argument"},
		{"1", Sight{}, Bool, "must evaluate to bool but got int"},
		{"1", Sight{}, StringOrNil, "must evaluate to one of [string null_type] but got int"},
	} {
		_, err := new(Admission).Compile(c.expression, c.sight, c.want)
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("%s: %v", c.expression, err)
		case c.wrong != "" && (err == nil || !strings.HasPrefix(err.Error(), c.wrong)):
			t.Errorf("%s: %v\nwant %s", c.expression, err, c.wrong)
		}
	}
}

// TestVariables checks that an expression sees the variables before it, with their types.
func TestVariables(t *testing.T) {
	var a Admission
	a.Declare()
	s := Sight{Params: true, Authorizer: true}
	if _, err := a.Compile("variables.n > 1", s, Bool); err == nil {
		t.Error("a variable is there before it is defined")
	}
	for _, v := range []struct{ name, expression string }{
		{"n", "1"}, {"m", "variables.n + 1"}, {"l", "[variables.m]"}, {"d", "{'a': object.x}"}, {"bad", "nope"},
	} {
		if err := a.Define(v.name, v.expression, s); (err != nil) != (v.name == "bad") {
			t.Errorf("%s: %v", v.name, err)
		}
	}
	if _, err := a.Compile("variables.m > 1 && variables.l[0] == 2 && variables.d.a == 'x' && variables.bad", s, Bool); err != nil {
		t.Error(err)
	}
	if _, err := a.Compile("variables.n == 'a'", Sight{}, Bool); err == nil {
		t.Error("a number is compared with a text")
	}
	if _, err := a.Compile("variables.o", s, Anything); err == nil || !strings.Contains(err.Error(), "undefined field 'o'") {
		t.Errorf("got %v", err)
	}
}

func TestDevice(t *testing.T) {
	for expression, wrong := range map[string]string{
		`device.driver == "a" && device.attributes["a"].model == "x"`:   "",
		`device.capacity["a"].memory.isGreaterThan(quantity("1Gi"))`:    "",
		`device.attributes["a"].version.isGreaterThan(semver("1.2.3"))`: "",
		`cel.bind(dra, device.attributes["a"], dra.x && dra.y)`:         "",
		`device.allowMultipleAllocations == true`:                       "",
		`device.attributes["a"].flag`:                                   "",
		`device.attributes["a"].?flag.orValue(false)`:                   "",
		`device.driver`:  "must evaluate to bool or the unknown type, not string",
		`device.nothing`: "compilation failed: ERROR: <input>:1:7: undefined field 'nothing'",
		`object.x`:       "compilation failed: ERROR: <input>:1:1: undeclared reference to 'object'",
		`device.attributes["a"].map(s, s.lowerAscii().upperAscii().contains(device.driver)).exists(b, b) && 1 == "a"`: "compilation failed: ",
	} {
		cost, err := Device(expression)
		switch {
		case wrong == "" && err != nil:
			t.Errorf("%s: %v", expression, err)
		case wrong == "" && cost > 1_000_000:
			t.Errorf("%s costs %d", expression, cost)
		case wrong != "" && (err == nil || !strings.HasPrefix(err.Error(), wrong)):
			t.Errorf("%s: %v\nwant %s", expression, err, wrong)
		}
	}
	many := `device.attributes["a"].map(k, device.attributes["a"].map(l, device.attributes["a"].map(m, device.attributes["a"].map(n, k + l + m + n)))).size() > 0`
	if cost, err := Device(many); err != nil || cost <= 1_000_000 {
		t.Errorf("four loops cost %d (%v)", cost, err)
	}
}

func TestDeviceAttribute(t *testing.T) {
	for expression, wrong := range map[string]string{
		`device.attributes["a"].numa`: "",
		`"x" + device.driver`:         "",
		`[1, 2]`:                      "",
		`semver("1.2.3")`:             "",
		`1.5`:                         "must evaluate to a string, int, bool or semver, or to a list of these, not double",
		`{"a": 1}`:                    "must evaluate to a string, int, bool or semver, or to a list of these, not map(string, int)",
		`[[1]]`:                       "must evaluate to a string, int, bool or semver, or to a list of these, not list(list(int))",
		`oject`:                       "compilation failed: ERROR: <input>:1:1: undeclared reference to 'oject'",
	} {
		_, err := DeviceAttribute(expression)
		if wrong == "" && err != nil || wrong != "" && (err == nil || !strings.HasPrefix(err.Error(), wrong)) {
			t.Errorf("%s: %v\nwant %s", expression, err, wrong)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if _, err := new(Admission).Compile("object.spec.replicas <= 5", Sight{Params: true, Authorizer: true}, Bool); err != nil {
			b.Fatal(err)
		}
	}
}
