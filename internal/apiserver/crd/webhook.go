package crd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"proa/internal/apiserver/reach"
)

// Bounds of a webhook: how much it may answer, in bytes, and how long it may
// take, which it is told.
const (
	maxReview  = 256 << 20
	patience   = 30 * time.Second
	timeoutKey = "timeout"
)

// Through is a [Webhook] that calls through n.
func Through(n *reach.Net) Webhook {
	return func(ctx context.Context, to *apiextensionsv1.WebhookClientConfig, body []byte) ([]byte, error) {
		t := reach.Target{CA: bytes.TrimSpace(to.CABundle)}
		path := ""
		switch {
		case to.URL != nil:
			t.URL = *to.URL
		case to.Service != nil:
			t.Namespace, t.Name = to.Service.Namespace, to.Service.Name
			if to.Service.Port != nil {
				t.Port = *to.Service.Port
			}
			path = "/"
			if to.Service.Path != nil {
				path = *to.Service.Path
			}
		default:
			return nil, fmt.Errorf("the webhook has neither a URL nor a service")
		}
		way, err := n.To(t)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		u := way.URL(path)
		q := u.Query()
		q.Set(timeoutKey, patience.String())
		u.RawQuery = q.Encode()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json")
		resp, err := way.Client(0).Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxReview))
		if err != nil {
			return nil, fmt.Errorf("read the answer of %s: %w", req.URL, err)
		}
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s answered %s: %.200s", req.URL, resp.Status, answer)
		}
		return answer, nil
	}
}
