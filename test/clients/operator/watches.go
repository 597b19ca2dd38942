package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	v1 "proa/test/clients/operator/api/v1"
	"proa/test/clients/operator/api/v1beta1"
)

func (w *world) children(ctx context.Context) error {
	var s v1.Website
	var d appsv1.Deployment
	var pages corev1.ConfigMap
	for _, o := range []client.Object{&s, &d, &pages} {
		if err := w.client.Get(ctx, key("one"), o); err != nil {
			return err
		}
	}
	for _, o := range []client.Object{&d, &pages} {
		if owner := metav1.GetControllerOf(o); owner == nil || owner.UID != s.UID || owner.APIVersion != "sites.example.com/v1" || owner.Kind != "Website" {
			return fmt.Errorf("%T is owned by %+v", o, owner)
		}
	}
	if pages.Data["index.html"] != "hello" || d.Spec.Template.Spec.Containers[0].Image != w.image {
		return fmt.Errorf("%+v, %+v", pages.Data, d.Spec)
	}
	first := pages.UID
	if err := w.client.Delete(ctx, &pages); err != nil {
		return err
	}
	return until(ctx, "a child that was deleted comes back", func() (bool, error) {
		err := w.client.Get(ctx, key("one"), &pages)
		return err == nil && pages.UID != first, client.IgnoreNotFound(err)
	})
}

func (w *world) event(ctx context.Context) error {
	var l eventsv1.EventList
	return until(ctx, "it is told", func() (bool, error) {
		err := w.client.List(ctx, &l, client.InNamespace(ns))
		for _, e := range l.Items {
			if e.Reason == "Serving" && e.Regarding.Kind == "Website" && e.Regarding.Name == "one" {
				return true, nil
			}
		}
		return false, err
	})
}

// columns asks for tables, as kubectl does.
func (w *world) columns(ctx context.Context) error {
	httpClient, err := rest.HTTPClientFor(w.config)
	if err != nil {
		return err
	}
	table := func(gvk string, o client.Object) (*metav1.Table, error) {
		kind, err := apiutil.GVKForObject(o, w.scheme)
		if err != nil {
			return nil, err
		}
		c, err := apiutil.RESTClientForGVK(kind, false, false, w.config, metaCodecs, httpClient)
		if err != nil {
			return nil, err
		}
		t := new(metav1.Table)
		err = c.Get().Namespace(ns).Resource("websites").Name("one").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Into(t)
		return t, err
	}
	t, err := table("v1", &v1.Website{})
	if err != nil {
		return err
	}
	var names []string
	for _, c := range t.ColumnDefinitions {
		names = append(names, fmt.Sprintf("%s/%s/%d", c.Name, c.Type, c.Priority))
	}
	if got := strings.Join(names, " "); got != "Name/string/0 Class/string/0 Replicas/integer/0 Ready/string/0 Image/string/1 Age/date/0" {
		return fmt.Errorf("columns %s", got)
	}
	if got := fmt.Sprint(t.Rows[0].Cells[:5]); got != fmt.Sprintf("[one standard 1 True %s]", w.image) {
		return fmt.Errorf("cells %s", got)
	}
	if t, err = table("v1beta1", &v1beta1.Website{}); err != nil {
		return err
	}
	if got := fmt.Sprint(t.Rows[0].Cells); got != "[one 1]" {
		return fmt.Errorf("cells of beta %s", got)
	}
	return nil
}

func (w *world) selectable(ctx context.Context) error {
	for _, list := range []client.ObjectList{&v1.WebsiteList{}, &v1beta1.WebsiteList{}} {
		if err := w.client.List(ctx, list, client.InNamespace(ns), client.MatchingFields{"spec.class": "gold"}); err != nil {
			return err
		}
		var names []string
		switch l := list.(type) {
		case *v1.WebsiteList:
			for _, s := range l.Items {
				names = append(names, s.Name)
			}
		case *v1beta1.WebsiteList:
			for _, s := range l.Items {
				names = append(names, s.Name)
			}
		}
		if fmt.Sprint(names) != "[beta]" {
			return fmt.Errorf("%T: gold are %v", list, names)
		}
	}
	err := w.client.List(ctx, &v1.WebsiteList{}, client.MatchingFields{"spec.image": "x"})
	if err := refused(err, apierrors.IsBadRequest, "field label not supported: spec.image"); err != nil {
		return err
	}
	return until(ctx, "the index finds it", func() (bool, error) {
		var l v1.WebsiteList
		err := w.cached.List(ctx, &l, client.InNamespace(ns), client.MatchingFields{"spec.class": "gold"})
		return len(l.Items) == 1 && l.Items[0].Name == "beta", err
	})
}

// follow runs a cache of one type, for as long as f.
func (w *world) follow(ctx context.Context, o client.Object, by cache.ByObject, f func(cache.Cache) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c, err := cache.New(w.config, cache.Options{Scheme: w.scheme, ByObject: map[client.Object]cache.ByObject{o: by}})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Start(ctx) }()
	if _, err := c.GetInformer(ctx, o); err != nil {
		return err
	}
	if !c.WaitForCacheSync(ctx) {
		return errors.New("the cache did not come")
	}
	err = f(c)
	stop()
	return errors.Join(err, <-ended)
}

// selection is a cache that asks the server for what is gold only.
func (w *world) selection(ctx context.Context) error {
	return w.follow(ctx, &v1.Website{}, cache.ByObject{Field: fields.OneTermEqualSelector("spec.class", "gold")}, func(c cache.Cache) error {
		has := func(what string, want ...string) error {
			return until(ctx, what, func() (bool, error) {
				var l v1.WebsiteList
				err := c.List(ctx, &l)
				var names []string
				for _, s := range l.Items {
					names = append(names, s.Name)
				}
				return strings.Join(names, " ") == strings.Join(want, " "), err
			})
		}
		if err := has("it has what is gold", "beta"); err != nil {
			return err
		}
		for name, class := range map[string]string{"dull": "standard", "shiny": "gold"} {
			s := w.site(name)
			s.Spec.Class, s.Spec.Replicas = class, new(int32(0))
			if err := w.client.Create(ctx, s); err != nil {
				return err
			}
		}
		if err := has("it learns of new gold", "beta", "shiny"); err != nil {
			return err
		}
		if err := w.client.Delete(ctx, w.site("shiny")); err != nil {
			return err
		}
		if err := has("it forgets what is gone", "beta"); err != nil {
			return err
		}
		return w.client.Delete(ctx, w.site("dull"))
	})
}

// otherVersion watches beta while v1 is written.
func (w *world) otherVersion(ctx context.Context) error {
	return w.follow(ctx, &v1beta1.Website{}, cache.ByObject{}, func(c cache.Cache) error {
		for _, replicas := range []int32{3, 4} {
			body := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
			if err := w.client.Patch(ctx, w.site("applied"), client.RawPatch("application/merge-patch+json", body)); err != nil {
				return err
			}
			err := until(ctx, "beta follows", func() (bool, error) {
				var b v1beta1.Website
				err := c.Get(ctx, key("applied"), &b)
				return err == nil && *b.Spec.Size == replicas, err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *world) metadata(ctx context.Context) error {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(v1.GroupVersion.WithKind("Website"))
	return w.follow(ctx, o, cache.ByObject{}, func(c cache.Cache) error {
		if err := w.client.Patch(ctx, w.site("applied"), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"seen":"yes"}}}`))); err != nil {
			return err
		}
		return until(ctx, "the label is seen", func() (bool, error) {
			err := c.Get(ctx, key("applied"), o)
			return err == nil && o.Labels["seen"] == "yes", err
		})
	})
}

func (w *world) deletion(ctx context.Context) error {
	if err := w.client.DeleteAllOf(ctx, &v1.Website{}, client.InNamespace(ns)); err != nil {
		return err
	}
	err := until(ctx, "the finalizers let go", func() (bool, error) {
		var l v1.WebsiteList
		err := w.client.List(ctx, &l, client.InNamespace(ns))
		return len(l.Items) == 0, err
	})
	if err != nil {
		return err
	}
	if !w.bare {
		err := until(ctx, "the children are collected", func() (bool, error) {
			var d appsv1.DeploymentList
			var pages corev1.ConfigMap
			err := w.client.List(ctx, &d, client.InNamespace(ns))
			if err == nil {
				err = w.client.Get(ctx, key("one"), &pages)
			}
			return len(d.Items) == 0 && apierrors.IsNotFound(err), client.IgnoreNotFound(err)
		})
		if err != nil {
			return err
		}
	}
	if err := w.client.Delete(ctx, w.crd); err != nil {
		return err
	}
	return until(ctx, "the definition is gone", func() (bool, error) {
		err := w.client.Get(ctx, client.ObjectKeyFromObject(w.crd), w.crd)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}
