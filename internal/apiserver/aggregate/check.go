package aggregate

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/internal/api"
	"proa/internal/apiserver/reach"
	"proa/internal/kinds/core"
)

const (
	askTimeout = 5 * time.Second
	attempts   = 3        // at once, as there may be so many endpoints of which some are well
	maxAnswer  = 64 << 20 // bytes of one document
)

// asker is in whose name extension servers are asked about themselves.
var asker = api.User{Name: "system:kube-aggregator", Groups: []string{api.GroupMasters}}

// check finds out whether the server can be reached, and the condition that says so.
func (b *backend) check(ctx context.Context) (status apiregistrationv1.ConditionStatus, reason, message string) {
	no := func(reason, format string, args ...any) (apiregistrationv1.ConditionStatus, string, string) {
		return apiregistrationv1.ConditionFalse, reason, fmt.Sprintf(format, args...)
	}
	ns, name := b.service.Namespace, b.service.Name
	s, err := core.Service.Get(ctx, b.a.h, ns, name)
	switch {
	case apierrors.IsNotFound(err):
		return no("ServiceNotFound", "service/%s in %q is not present", name, ns)
	case err != nil:
		return apiregistrationv1.ConditionUnknown, "ServiceAccessError", fmt.Sprintf("service/%s in %q cannot be checked due to: %v", name, ns, err)
	}
	many := 1
	if s.Spec.Type == corev1.ServiceTypeClusterIP {
		p := reach.Port(s, b.port)
		if p == nil {
			return no("ServicePortError", "service/%s in %q is not listening on port %d", name, ns, b.port)
		}
		slices, err := reach.Slices(ctx, b.a.h, ns, name)
		switch {
		case err != nil:
			return apiregistrationv1.ConditionUnknown, "EndpointsAccessError", fmt.Sprintf("service/%s in %q cannot be checked due to: %v", name, ns, err)
		case len(slices) == 0:
			return no("EndpointsNotFound", "cannot find endpointslices for service/%s in %q", name, ns)
		}
		if many = len(reach.Ready(slices, p.Name)); many == 0 {
			return no("MissingEndpoints", "endpointslices for service/%s in %q have no addresses with port name %q", name, ns, p.Name)
		}
	}
	if err := b.answers(ctx, min(many, attempts)); err != nil {
		return no("FailedDiscoveryCheck", "%s", brief(err))
	}
	return apiregistrationv1.ConditionTrue, "Passed", "all checks passed"
}

// answers asks for the discovery of the version, so many times at once, and is
// content with one answer.
func (b *backend) answers(ctx context.Context, times int) error {
	if b.err != nil {
		return b.err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	results := make(chan error, times)
	for range times {
		go func() { results <- b.hit(ctx) }()
	}
	var err error
	for range times {
		if err = <-results; err == nil {
			return nil
		}
	}
	return err
}

func (b *backend) hit(ctx context.Context) error {
	u := b.way.URL(b.path())
	resp, err := b.ask(ctx, b.path(), "application/json", "")
	if err != nil {
		return fmt.Errorf("failing or missing response from %s: %w", u, err)
	}
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("failing or missing response from %s: bad status from %s: %d", u, u, resp.StatusCode)
	}
	return nil
}

// ask gets a document in the aggregator's own name. The caller closes the body.
func (b *backend) ask(ctx context.Context, path, accept, tag string) (*http.Response, error) {
	u := b.way.URL(path)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	identify(req.Header, asker)
	req.Header.Set("Accept", accept)
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	resp, err := b.way.RoundTrip(req)
	if err != nil && context.Cause(ctx) == context.DeadlineExceeded {
		return nil, fmt.Errorf("no answer within %s", askTimeout)
	}
	return resp, err
}

// fetch is ask with all of the answer read.
func (b *backend) fetch(ctx context.Context, path, accept, tag string) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	resp, err := b.ask(ctx, path, accept, tag)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp, body, err
}
