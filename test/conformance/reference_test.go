package conformance

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"proa/test/bench/measure"
)

// referenceVar names the folder with the programs of test/bench/reference.
const referenceVar = "PROA_CONFORMANCE_REFERENCE"

// customArea is how the names of areas about custom resources begin.
const customArea = "crd-"

// onReference says whether the reference can play the row.
func (r *row) onReference() bool { return r.alone == "" && r.only != "process" }

// TestReference plays the rows about custom resources on Kubernetes' own
// machinery for them (k8s.io/apiextensions-apiserver, on etcd), so that it is
// known that they tell the truth. It has no kinds of its own besides
// definitions: a row that needs more says so ("reference: no").
func TestReference(t *testing.T) {
	bin := os.Getenv(referenceVar)
	if bin == "" {
		t.Skipf("NOT PLAYED ON THE REFERENCE: %s names no folder of programs (see make conformance-reference)", referenceVar)
	}
	w, hook, objs := reference(t, bin), newWebhook(t), readObjects(t)
	played, alone := 0, 0
	t.Run("rows", func(t *testing.T) {
		for _, a := range readAreas(t) {
			if !strings.HasPrefix(a.name, customArea) {
				continue
			}
			t.Run(a.name, func(t *testing.T) {
				t.Parallel()
				for _, r := range a.rows {
					if !r.onReference() {
						alone++
						continue
					}
					played++
					t.Run(short(r.title), func(t *testing.T) {
						t.Parallel()
						p := newPlay(w, hook, a, r, "http", objs)
						if err := p.run(t.Context(), r); err != nil {
							t.Error(err)
						}
						p.withdraw(t)
					})
				}
			})
		}
	})
	tally.text = fmt.Sprintf("conformance: %d rows about custom resources played on the reference, %d cannot be", played, alone)
}

// reference starts the programs with fresh data.
func reference(t *testing.T, bin string) *world {
	t.Helper()
	dir := t.TempDir()
	id, err := measure.NewIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	etcd, err := measure.StartEtcd(measure.AnyCore, bin, dir, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Stop)
	server, err := measure.StartCRD(measure.AnyCore, bin, dir, id, etcd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	return &world{url: server.URL, waits: time.Minute, clients: map[string]*http.Client{clientID(admin): httpClient(server.TLS)}}
}

// withdraw deletes what the row has defined, so that the reference does not
// become slow.
func (p *play) withdraw(t *testing.T) {
	p.user = "admin"
	for _, name := range p.names {
		a, err := p.via.call(context.WithoutCancel(t.Context()), &ask{user: admin, method: http.MethodDelete, path: fmt.Sprint(definitions, "/", name)})
		if err != nil || a.code != http.StatusOK && a.code != http.StatusNotFound {
			t.Logf("delete the definition %s: %v", name, err)
		}
	}
}
