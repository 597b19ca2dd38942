package aggregate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"

	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/internal/kinds/apiregistration"
)

// patience is how long a client's request for all OpenAPI v2 documents waits for
// one that was never seen.
const patience = 500 * time.Millisecond

// A document is a server's OpenAPI v2 document, fetched when somebody asks for
// it and again when it is old.
type document struct {
	body   []byte
	tag    string // what the server calls it
	digest string
	tried  time.Time
	done   chan struct{} // of the fetch that is under way; nil if none is
}

// openapi2 returns the server's document as it was last seen. If it is old it is
// fetched meanwhile, and the caller waits a little only if there is none yet.
func (b *backend) openapi2(ctx context.Context) ([]byte, string) {
	b.mu.Lock()
	d := &b.v2
	c := apiregistration.Available(b.obj)
	up := c != nil && c.Status == apiregistrationv1.ConditionTrue
	if up && d.done == nil && time.Since(d.tried) > b.a.Refresh {
		d.done, d.tried = make(chan struct{}), time.Now()
		go b.fetchV2(d.tag, d.done) // ends by itself, within askTimeout
	}
	done, body, digest := d.done, d.body, d.digest
	b.mu.Unlock()
	if body != nil || done == nil {
		return body, digest
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return d.body, d.digest
}

func (b *backend) fetchV2(tag string, done chan struct{}) {
	resp, body, err := b.fetch(context.Background(), "/openapi/v2", "application/json", tag)
	b.mu.Lock()
	defer b.mu.Unlock()
	d := &b.v2
	d.done = nil
	close(done)
	switch {
	case err != nil || resp.StatusCode >= 500 || resp.StatusCode == http.StatusNotModified:
	case resp.StatusCode != http.StatusOK:
		d.body, d.tag, d.digest = nil, "", ""
	default:
		sum := sha256.Sum256(body)
		d.body, d.tag, d.digest = body, resp.Header.Get("Etag"), hex.EncodeToString(sum[:])
	}
}
