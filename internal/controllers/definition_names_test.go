package controllers

import (
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecideStatus(t *testing.T) {
	webhook := func(bundle string) func(*apiextensionsv1.CustomResourceDefinition) {
		return func(d *apiextensionsv1.CustomResourceDefinition) {
			d.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter,
				Webhook: &apiextensionsv1.WebhookConversion{ClientConfig: &apiextensionsv1.WebhookClientConfig{CABundle: []byte(bundle)}}}
		}
	}
	established := func(names ...string) func(*apiextensionsv1.CustomResourceDefinition) {
		return func(d *apiextensionsv1.CustomResourceDefinition) {
			d.Status.AcceptedNames = apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Singular: "thing", Kind: "Thing", ListKind: "ThingList", ShortNames: names}
			d.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: "True", Reason: "InitialNamesAccepted"}}
		}
	}
	for name, c := range map[string]struct {
		change func(*apiextensionsv1.CustomResourceDefinition)
		taken  string // resources, and kinds in capitals
		want   string // names, conditions
	}{
		"free":             {nil, "other Other", "things thing Thing ThingList th,t | NamesAccepted=True/NoConflicts Established=True/InitialNamesAccepted"},
		"plural":           {nil, "things", " thing Thing ThingList th,t | NamesAccepted=False/PluralConflict Established=False/NotAccepted"},
		"a short name":     {nil, "th", "things thing Thing ThingList  | NamesAccepted=False/ShortNamesConflict Established=False/NotAccepted"},
		"kind":             {nil, "Thing", "things thing  ThingList th,t | NamesAccepted=False/KindConflict Established=False/NotAccepted"},
		"singular and all": {nil, "thing ThingList", "things  Thing  th,t | NamesAccepted=False/ListKindConflict Established=False/NotAccepted"},
		"established":      {established("old"), "th", "things thing Thing ThingList old | Established=True/InitialNamesAccepted NamesAccepted=False/ShortNamesConflict"},
		"own short names":  {established("th"), "", "things thing Thing ThingList th,t | Established=True/InitialNamesAccepted NamesAccepted=True/NoConflicts"},
		"bad bundle":       {webhook("x"), "", "things thing Thing ThingList th,t | NamesAccepted=True/NoConflicts Established=False/InvalidCABundle"},
		"no certificate":   {webhook(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}))), "", "things thing Thing ThingList th,t | NamesAccepted=True/NoConflicts Established=False/InvalidCABundle"},
		"no bundle":        {webhook(""), "", "things thing Thing ThingList th,t | NamesAccepted=True/NoConflicts Established=True/InitialNamesAccepted"},
	} {
		d := &apiextensionsv1.CustomResourceDefinition{}
		d.Spec.Group = "example.com"
		d.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Singular: "thing", Kind: "Thing", ListKind: "ThingList", ShortNames: []string{"th", "t"}}
		if c.change != nil {
			c.change(d)
		}
		var taken names
		for _, w := range strings.Fields(c.taken) {
			if strings.ToLower(w) == w {
				taken.add(w, "", nil)
			} else {
				taken.add("", "", nil, w)
			}
		}
		s := decideStatus(d, taken, metav1.Unix(1, 0))
		n := s.AcceptedNames
		got := fmt.Sprintf("%s %s %s %s %s |", n.Plural, n.Singular, n.Kind, n.ListKind, strings.Join(n.ShortNames, ","))
		for _, c := range s.Conditions {
			got += fmt.Sprintf(" %s=%s/%s", c.Type, c.Status, c.Reason)
		}
		if got != c.want {
			t.Errorf("%s:\n%s, want\n%s", name, got, c.want)
		}
	}
}

// All short names that are taken are told.
func TestShortNamesConflict(t *testing.T) {
	var taken names
	taken.add("a", "b", nil)
	d := &apiextensionsv1.CustomResourceDefinition{}
	d.Spec.Names.ShortNames = []string{"a", "c", "b", "a"}
	if _, _, message := acceptNames(d, taken); message != `["a" is already in use, "b" is already in use]` {
		t.Error(message)
	}
}
