package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
)

// A Component is a part of the control plane that says how it is.
type Component struct {
	Name  string                      // "scheduler", "controller-manager", "etcd-0"
	Probe func(context.Context) error // nil while all is well
}

// Components answers reads of componentstatuses: see [Config].Subs. Every
// component is asked anew for each read; selectors of labels select none.
func Components(list ...Component) api.SubFunc {
	return func(ctx context.Context, _ api.Env, r *api.Request) (*api.Response, error) {
		out := &api.ItemList{Items: []*api.Item{}}
		for _, c := range list {
			if r.Verb == api.Get && c.Name != r.Name {
				continue
			}
			o := &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: c.Name}}
			if !r.Select.Matches(r.Resource, o) {
				continue
			}
			o.Conditions = []corev1.ComponentCondition{{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}}
			if err := c.Probe(ctx); err != nil {
				o.Conditions[0].Status, o.Conditions[0].Message = corev1.ConditionFalse, err.Error()
			}
			out.Items = append(out.Items, api.NewItem(r.Resource, 0, nil, o))
		}
		switch {
		case r.Verb != api.Get:
			return &api.Response{List: out}, nil
		case len(out.Items) == 0:
			return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
		}
		return &api.Response{Object: out.Items[0].Object()}, nil
	}
}
