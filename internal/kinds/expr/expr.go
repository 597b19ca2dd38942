// Package expr compiles the CEL expressions that objects hold, in the language
// of Kubernetes 1.37 (kubernetes.io/docs/reference/using-api/cel). What an
// expression can see depends on where it stands: [Admission], [Device].
//
// Environments are made when they are first needed, and kept: a cluster that
// holds no expression pays nothing for them.
package expr

import (
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/ext"
	"github.com/google/cel-go/interpreter"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celapi "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/library"
)

// callCost is what one evaluation may cost, in CEL's units: about 0.1 s.
const callCost = 1_000_000

// base is the language without any variable. The packages of k8s.io/apiserver
// that would put it together also bring feature gates and a metrics registry,
// which start with the process; the libraries themselves do not.
var base = sync.OnceValue(func() *cel.Env {
	env, err := cel.NewEnv(
		cel.HomogeneousAggregateLiterals(),
		cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.OptionalTypes(),
		cel.CostEstimatorOptions(checker.PresenceTestHasCost(false)),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(),
			cel.ValidateRegexLiterals(), cel.ValidateHomogeneousAggregateLiterals()),
		ext.Strings(ext.StringsVersion(2)),
		ext.Sets(),
		ext.TwoVarComprehensions(),
		ext.Lists(ext.ListsVersion(3)),
		library.URLs(),
		library.Regex(),
		library.Authz(),
		library.AuthzSelectors(),
		library.Quantity(),
		library.IP(),
		library.CIDR(),
		library.Format(),
		library.SemverLib(library.SemverVersion(1)),
		library.Lists(library.ListsVersion(1)),
		cel.Lib(programs{}),
	)
	return must(env, err)
})

// programs is the library that limits what programs made from an environment may cost.
type programs struct{}

func (programs) CompileOptions() []cel.EnvOption { return nil }

func (programs) ProgramOptions() []cel.ProgramOption {
	return []cel.ProgramOption{
		cel.EvalOptions(cel.OptOptimize, cel.OptTrackCost),
		cel.CostLimit(callCost),
		cel.CostTracking(&library.CostEstimator{}),
		cel.CostTrackerOptions(interpreter.PresenceTestHasCost(false)),
	}
}

// must is for environments of fixed declarations, which tests make.
func must(env *cel.Env, err error) *cel.Env {
	if err != nil {
		panic("expr: " + err.Error())
	}
	return env
}

// extend is env with types of objects and more options.
func extend(env *cel.Env, types []*celapi.DeclType, options ...cel.EnvOption) *cel.Env {
	provider := celapi.NewDeclTypeProvider(types...)
	provider.SetRecognizeKeywordAsFieldName(true)
	more, err := provider.EnvOptions(env.CELTypeProvider())
	if err != nil {
		panic("expr: " + err.Error())
	}
	return must(env.Extend(append(options, more...)...))
}

// object is a type of objects with fields of given types.
func object(name string, fields map[string]*celapi.DeclType, required ...string) *celapi.DeclType {
	decl := map[string]*celapi.DeclField{}
	for f, t := range fields {
		decl[f] = celapi.NewDeclField(f, t, false, nil, nil)
	}
	for _, f := range required {
		decl[f].Required = true
	}
	return celapi.NewObjectType(name, decl)
}

// An Error says why an expression is refused, in the words of the API.
type Error struct{ Detail string }

func (e *Error) Error() string { return e.Detail }

// Invalid turns what a compilation answered into field errors.
func Invalid(at *field.Path, expression string, err error) field.ErrorList {
	if err == nil {
		return nil
	}
	return field.ErrorList{field.Invalid(at, expression, err.Error())}
}
