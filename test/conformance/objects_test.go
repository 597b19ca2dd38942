package conformance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// objects is one valid object of each kind, by "v1/Pod", as the kinds' own
// tables have it.
type objects map[string]json.RawMessage

func readObjects(t testing.TB) objects {
	t.Helper()
	files, err := filepath.Glob("../../internal/kinds/testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tables of kinds: %v", err)
	}
	out := objects{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var table struct {
			Object json.RawMessage `json:"object"`
		}
		if err := yaml.Unmarshal(text, &table); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		var head metav1.TypeMeta
		if err := json.Unmarshal(table.Object, &head); err != nil {
			continue // no table of a kind
		}
		out[head.APIVersion+"/"+head.Kind] = table.Object
	}
	return out
}

// with is the object of a kind with a merge patch applied.
func (o objects) with(kind string, patch map[string]any) (any, error) {
	base := o[kind]
	if strings.HasPrefix(kind, "{") { // what an answer has set
		base = json.RawMessage(kind)
	}
	if base == nil {
		return nil, fmt.Errorf("there is no object of %q to be like", kind)
	}
	p, err := json.Marshal(patch)
	if err != nil {
		return nil, err
	}
	merged, err := jsonpatch.MergePatch(base, p)
	if err != nil {
		return nil, err
	}
	return jsonValue(merged)
}
