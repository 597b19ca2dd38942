package expr

import (
	"fmt"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	celapi "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/mutation"
)

// Results of admission expressions.
var (
	Bool        = []*cel.Type{cel.BoolType}
	String      = []*cel.Type{cel.StringType}
	StringOrNil = []*cel.Type{cel.StringType, cel.NullType}
	Anything    = []*cel.Type{cel.AnyType}
	Object      = []*cel.Type{cel.ObjectType(mutation.ObjectTypeName)}
	Patches     = []*cel.Type{cel.ListType(cel.ObjectType(mutation.JSONPatchTypeName))}
)

// A Sight is what an admission expression sees besides object, oldObject,
// request, namespaceObject and the policy's variables.
type Sight struct {
	Params     bool // params
	Authorizer bool // authorizer
	Patch      bool // the types Object and JSONPatch, and jsonpatch.escapeKey
}

// Admission compiles the expressions of one webhook or policy. The zero value
// is one without variables. It is for one goroutine.
type Admission struct {
	vars *celapi.DeclType
	envs map[Sight]*cel.Env
}

// Declare lets the expressions see "variables", to which [Admission.Define] adds.
func (a *Admission) Declare() {
	a.vars = celapi.NewObjectType("kubernetes.variables", map[string]*celapi.DeclField{})
	a.envs = map[Sight]*cel.Env{}
}

// Define compiles the expression of a variable that those compiled later see.
// One that does not compile is seen too, with any type.
func (a *Admission) Define(name, expression string, s Sight) error {
	ast, err := a.Compile(expression, s, Anything)
	t := celapi.DynType
	if err == nil {
		t = declared(ast.OutputType())
	}
	a.vars.Fields[name] = celapi.NewDeclField(name, t, true, nil, nil)
	return err
}

// Compile answers the checked expression, or an [*Error] if it does not
// compile or its result is of no wanted type.
func (a *Admission) Compile(expression string, s Sight, want []*cel.Type) (*cel.Ast, error) {
	return compile(a.env(s), expression, func(t *cel.Type) string {
		var names []string
		for _, w := range want {
			if t.IsExactType(w) || w.IsExactType(cel.AnyType) {
				return ""
			}
			names = append(names, w.String())
		}
		if len(names) == 1 {
			return fmt.Sprintf("must evaluate to %s but got %s", names[0], t)
		}
		return fmt.Sprintf("must evaluate to one of [%s] but got %s", strings.Join(names, " "), t)
	})
}

// compile checks an expression and its type; wrong says what is wrong with a type.
func compile(env *cel.Env, expression string, wrong func(*cel.Type) string) (*cel.Ast, error) {
	ast, issues := env.Compile(expression)
	if issues != nil && issues.Err() != nil {
		return nil, &Error{"compilation failed: " + issues.String()}
	}
	if msg := wrong(ast.OutputType()); msg != "" {
		return nil, &Error{msg}
	}
	if _, err := env.Program(ast); err != nil {
		return nil, &Error{"program instantiation failed: " + err.Error()}
	}
	return ast, nil
}

func (a *Admission) env(s Sight) *cel.Env {
	if a.vars == nil {
		if env, ok := plain.Load(s); ok {
			return env.(*cel.Env)
		}
		env, _ := plain.LoadOrStore(s, s.env())
		return env.(*cel.Env)
	}
	env := a.envs[s]
	if env == nil {
		without := Admission{}
		env = extend(without.env(s), []*celapi.DeclType{a.vars}, cel.Variable("variables", a.vars.CelType()))
		a.envs[s] = env
	}
	return env
}

// plain holds the environments without variables that were needed, by [Sight].
var plain sync.Map

func (s Sight) env() *cel.Env {
	request, namespace := requestType(), namespaceType()
	options := []cel.EnvOption{
		cel.Variable("object", cel.DynType),
		cel.Variable("oldObject", cel.DynType),
		cel.Variable("namespaceObject", namespace.CelType()),
		cel.Variable("request", request.CelType()),
	}
	if s.Params {
		options = append(options, cel.Variable("params", cel.DynType))
	}
	if s.Authorizer {
		options = append(options, cel.Variable("authorizer", library.AuthorizerType),
			cel.Variable("authorizer.requestResource", library.ResourceCheckType))
	}
	env := extend(base(), []*celapi.DeclType{namespace, request}, options...)
	if s.Patch {
		env = must(env.Extend(common.ResolverEnvOption(&mutation.DynamicTypeResolver{}), library.JSONPatch()))
	}
	return env
}

// requestType is the type of "request": an AdmissionRequest without what other variables hold.
func requestType() *celapi.DeclType {
	text := celapi.StringType
	texts := celapi.NewListType(text, -1)
	kind := object("kubernetes.GroupVersionKind",
		map[string]*celapi.DeclType{"group": text, "version": text, "kind": text}, "group", "version", "kind")
	resource := object("kubernetes.GroupVersionResource",
		map[string]*celapi.DeclType{"group": text, "version": text, "resource": text}, "group", "version", "resource")
	user := object("kubernetes.UserInfo", map[string]*celapi.DeclType{
		"username": text, "uid": text, "groups": texts, "extra": celapi.NewMapType(text, texts, -1)})
	return object("kubernetes.AdmissionRequest", map[string]*celapi.DeclType{
		"kind": kind, "resource": resource, "subResource": text,
		"requestKind": kind, "requestResource": resource, "requestSubResource": text,
		"name": text, "namespace": text, "operation": text, "userInfo": user, "dryRun": celapi.BoolType, "options": celapi.DynType,
	}, "kind", "resource", "requestKind", "requestResource", "name", "operation", "userInfo")
}

// namespaceType is the type of "namespaceObject": a Namespace without managed fields and owners.
func namespaceType() *celapi.DeclType {
	text, number, moment := celapi.StringType, celapi.IntType, celapi.TimestampType
	texts, labels := celapi.NewListType(text, -1), celapi.NewMapType(text, text, -1)
	whole := func(name string, fields map[string]*celapi.DeclType) *celapi.DeclType {
		var all []string
		for f := range fields {
			all = append(all, f)
		}
		return object(name, fields, all...)
	}
	condition := whole("kubernetes.NamespaceCondition", map[string]*celapi.DeclType{
		"status": text, "type": text, "lastTransitionTime": moment, "message": text, "reason": text})
	return whole("kubernetes.Namespace", map[string]*celapi.DeclType{
		"metadata": whole("kubernetes.NamespaceMetadata", map[string]*celapi.DeclType{
			"name": text, "generateName": text, "namespace": text, "labels": labels, "annotations": labels, "UID": text,
			"creationTimestamp": moment, "deletionGracePeriodSeconds": number, "deletionTimestamp": moment,
			"generation": number, "resourceVersion": text, "finalizers": texts}),
		"spec": whole("kubernetes.NamespaceSpec", map[string]*celapi.DeclType{"finalizers": texts}),
		"status": whole("kubernetes.NamespaceStatus", map[string]*celapi.DeclType{
			"conditions": celapi.NewListType(condition, -1), "phase": text}),
	})
}

// declared is the type of a variable, as a declaration; any type if it has none there.
func declared(t *cel.Type) *celapi.DeclType {
	if t == nil {
		return celapi.DynType
	}
	for _, d := range []*celapi.DeclType{celapi.BoolType, celapi.BytesType, celapi.DoubleType, celapi.DurationType,
		celapi.IntType, celapi.NullType, celapi.StringType, celapi.TimestampType, celapi.UintType} {
		if d.CelType().IsExactType(t) {
			return d
		}
	}
	switch p := t.Parameters(); t.Kind() {
	case cel.ListKind:
		return celapi.NewListType(declared(p[0]), -1)
	case cel.MapKind:
		return celapi.NewMapType(declared(p[0]), declared(p[1]), -1)
	}
	return celapi.DynType
}
