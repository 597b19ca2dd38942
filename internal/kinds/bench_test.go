package kinds_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// BenchmarkCreatePod is what the kind itself costs a create.
func BenchmarkCreatePod(b *testing.B) {
	raw, err := os.ReadFile(filepath.Join("testdata", "bench", "pod.json"))
	if err != nil {
		b.Fatal(err)
	}
	r := core.Pod.Def()
	o, err := decodeJSON(r, raw)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		p := api.Clone(o)
		if errs := create(r, p); len(errs) > 0 {
			b.Fatal(errs.ToAggregate())
		}
	}
}

func decodeJSON(r *api.Resource, raw []byte) (api.Object, error) {
	o := r.New()
	return o, json.Unmarshal(raw, o)
}
