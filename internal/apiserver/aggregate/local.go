package aggregate

import (
	"context"
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/internal/api"
	"proa/internal/api/remote"
	"proa/internal/kinds/apiregistration"
)

// managed is the label of the APIServices that are kept as they are here.
const managed = "kube-aggregator.kubernetes.io/automanaged"

// gather is how long changes of what is served are gathered before they are acted on.
const gather = 50 * time.Millisecond

// stirLocal asks for another look at the local APIServices.
func (a *Aggregator) stirLocal() {
	select {
	case a.stir <- struct{}{}:
	default:
	}
}

// keepLocal keeps an APIService of everything that the server serves itself,
// until ctx ends.
func (a *Aggregator) keepLocal(ctx context.Context) {
	select {
	case <-a.ready:
	case <-ctx.Done():
		return
	}
	for ctx.Err() == nil {
		var groups []*api.Group
		var changed <-chan struct{}
		if a.Served != nil {
			groups, changed = a.Served()
		}
		again := time.Hour
		if err := a.settleLocal(ctx, groups); err != nil && ctx.Err() == nil {
			a.Log.Warn("The APIServices of what is served here cannot be kept", "err", err)
			again = time.Second
		}
		t := time.NewTimer(again)
		select {
		case <-changed:
		case <-a.stir:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		rest(ctx, gather)
	}
}

// local is the APIService of a group and version that the server serves itself.
func local(gv schema.GroupVersion) *apiregistrationv1.APIService {
	p := remote.DefaultPriority(gv)
	how := "true" // comes and goes with custom resources
	if remote.BuiltIn(gv.Group) {
		how = "onstart"
	}
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group, Labels: map[string]string{managed: how}},
		Spec: apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version,
			GroupPriorityMinimum: p.Group, VersionPriority: p.Version},
	}
}

// settleLocal makes the local APIServices what they should be. Those without the
// label are their makers' business.
func (a *Aggregator) settleLocal(ctx context.Context, groups []*api.Group) error {
	want := make(map[string]*apiregistrationv1.APIService, len(groups))
	for _, g := range groups {
		if g.Name == apiregistration.APIService.Def().Group {
			continue // has none, as ever
		}
		for _, r := range g.Resources {
			if name := r.Version + "." + g.Name; want[name] == nil {
				want[name] = local(r.GroupVersion())
			}
		}
	}
	a.mu.Lock()
	have := maps.Clone(a.services)
	a.mu.Unlock()
	for name, o := range want {
		if err := a.settle(ctx, have[name], o); err != nil {
			return err
		}
	}
	for name, o := range have {
		if want[name] == nil && o.Labels[managed] != "" && o.DeletionTimestamp == nil {
			err := apiregistration.APIService.Delete(ctx, a.h, "", name, api.Options{UID: &o.UID})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return err
			}
		}
		if o.Spec.Service == nil {
			if err := a.sayLocal(ctx, o); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Aggregator) settle(ctx context.Context, have, want *apiregistrationv1.APIService) error {
	var err error
	switch {
	case have == nil:
		_, err = apiregistration.APIService.Create(ctx, a.h, want)
	case have.Spec.Service != nil && remote.Yields(want.Spec.Group):
		return nil // somebody else serves it from now on
	case have.Labels[managed] == "" || equality.Semantic.DeepEqual(have.Spec, want.Spec) && have.Labels[managed] == want.Labels[managed]:
		return nil
	default:
		next := api.Clone(have)
		next.Spec = want.Spec
		next.Labels[managed] = want.Labels[managed]
		_, err = apiregistration.APIService.Update(ctx, a.h, next)
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // what has changed stirs again
	}
	return err
}

// sayLocal says of an APIService without a Service that it is available, which
// is only to do when it had one before.
func (a *Aggregator) sayLocal(ctx context.Context, o *apiregistrationv1.APIService) error {
	next := withCondition(o, apiregistration.Local(metav1.Now().Rfc3339Copy()))
	if next == nil || o.DeletionTimestamp != nil {
		return nil
	}
	_, err := apiregistration.APIService.UpdateStatus(ctx, a.h, next)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
