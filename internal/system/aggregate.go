package system

import (
	"context"
	"fmt"

	"proa/internal/api"
	"proa/internal/apiserver/aggregate"
	"proa/internal/apiserver/reach"
	"proa/internal/pki"
)

// startAggregator keeps track of other API servers that serve behind this one.
// They believe who asks because of a certificate of an authority that signs
// nothing else. It returns when those that are registered are known.
func (s *system) startAggregator(ctx context.Context, p *plane) (*aggregate.Aggregator, error) {
	ca, err := pki.OpenCA(s.Places.PKI(), "front-proxy-ca", s.now())
	if err != nil {
		return nil, fmt.Errorf("authority of the front proxy: %w", err)
	}
	cert, err := ca.Renewer(s.Places.PKI(), aggregate.FrontProxy, pki.Leaf{User: aggregate.FrontProxy}, s.now)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", aggregate.FrontProxy, err)
	}
	a := aggregate.New(aggregate.Config{
		Server: p.Server,
		Net:    &reach.Net{Reads: p.Server, Certificate: cert.Client},
		Served: func() ([]*api.Group, <-chan struct{}) {
			_, changed := p.Kinds() // before the groups: a change in between is not missed
			return p.Groups(), changed
		},
		Trust: aggregate.Trust{ClientCA: s.ca.PEM, FrontCA: ca.PEM},
		Log:   s.Log,
	})
	s.part(ctx, "the aggregator", func(ctx context.Context) error { a.Run(ctx); return nil })
	select {
	case <-a.Ready():
	case <-ctx.Done():
	}
	return a, ctx.Err()
}
