package apiextensions

import (
	"slices"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func thing() *apiextensionsv1.CustomResourceDefinition {
	d := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "things.example.com", Generation: 3}}
	d.Spec.Group, d.Spec.Scope = "example.com", apiextensionsv1.NamespaceScoped
	d.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Kind: "Thing"}
	d.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true,
		Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}}}}
	r := CustomResourceDefinition.Def()
	r.Default(d)
	r.Prepare(d, nil)
	return d
}

// Once the names are accepted, those that objects are stored by stay.
func TestNamesStayOnceAccepted(t *testing.T) {
	old := thing()
	SetCondition(old, apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue})
	next := old.DeepCopy()
	next.Spec.Scope, next.Spec.Names.Kind, next.Spec.Names.ShortNames = apiextensionsv1.ClusterScoped, "Other", []string{"o"}
	var at []string
	for _, e := range CustomResourceDefinition.Def().Validate(next, old) {
		at = append(at, e.Field)
	}
	if want := []string{"spec.scope", "spec.names.kind"}; !slices.Equal(at, want) {
		t.Errorf("errors at %v, want %v", at, want)
	}
}

// A deleted definition waits for its objects, and its spec is as it was.
func TestDeleting(t *testing.T) {
	d := thing()
	at, grace := metav1.NewTime(time.Unix(100, 0)), int64(0)
	d.DeletionTimestamp, d.DeletionGracePeriodSeconds, d.Generation = &at, &grace, d.Generation+1
	CustomResourceDefinition.Def().Deleting(d)
	c := Condition(d, apiextensionsv1.Terminating)
	if c == nil || c.Status != apiextensionsv1.ConditionTrue || c.Reason != "InstanceDeletionPending" || !c.LastTransitionTime.Equal(&at) {
		t.Errorf("condition %+v", c)
	}
	if !slices.Equal(d.Finalizers, []string{Finalizer}) || d.Generation != 3 || d.DeletionGracePeriodSeconds != nil {
		t.Errorf("finalizers %v, generation %d, grace %v", d.Finalizers, d.Generation, d.DeletionGracePeriodSeconds)
	}
}

// The time of a condition is that of its last change of status.
func TestSetCondition(t *testing.T) {
	d := thing()
	set := func(s apiextensionsv1.ConditionStatus, reason string, at int64) {
		SetCondition(d, apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.NamesAccepted, Status: s, Reason: reason, LastTransitionTime: metav1.Unix(at, 0)})
	}
	set(apiextensionsv1.ConditionFalse, "A", 1)
	set(apiextensionsv1.ConditionFalse, "B", 2)
	if c := Condition(d, apiextensionsv1.NamesAccepted); c.Reason != "B" || c.LastTransitionTime.Unix() != 1 {
		t.Errorf("%+v", c)
	}
	set(apiextensionsv1.ConditionTrue, "C", 3)
	if c := Condition(d, apiextensionsv1.NamesAccepted); c.LastTransitionTime.Unix() != 3 || len(d.Status.Conditions) != 1 {
		t.Errorf("%+v", d.Status.Conditions)
	}
}
