package crd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"

	"proa/internal/api"
)

// complete fills in what takes all versions.
func (d *Definition) complete(c *apiextensionsv1.CustomResourceDefinition) {
	f := d.Family
	f.StoredAs = d.storedAs
	f.Relabel = relabel
	f.Merge = d.merge.of(d)
	f.Replicas = d.replicas()
	f.Plain = c.Spec.Conversion == nil || c.Spec.Conversion.Strategy != apiextensionsv1.WebhookConverter || len(d.versions) == 1
	if f.Plain {
		f.Convert = func(_ context.Context, objs []api.Object, to *api.Resource) ([]api.Object, error) {
			out := make([]api.Object, len(objs))
			for i, o := range objs {
				out[i] = relabel(o, to)
			}
			return out, nil
		}
		return
	}
	hook := c.Spec.Conversion.Webhook.DeepCopy()
	f.Convert = func(ctx context.Context, objs []api.Object, to *api.Resource) ([]api.Object, error) {
		return d.ask(ctx, hook, objs, to)
	}
}

// relabel makes an object one of another version that differs by its name only,
// and leaves out what that does not know.
func relabel(o api.Object, to *api.Resource) api.Object {
	x, v := o.(*Object), to.Codec.(codec).v
	if x.GroupVersionKind() == to.GVK() && x.of == v {
		return o
	}
	if x.of != nil && (x.of == v || x.of.fingerprint() == v.fingerprint()) {
		y := *x
		y.of = v
		y.SetGroupVersionKind(to.GVK())
		return &y
	}
	y := api.Clone(x)
	y.of = v
	y.SetGroupVersionKind(to.GVK())
	_, _ = y.prune(reading{stored: true}) // repairs what it finds
	return y
}

// ask lets the webhook convert those that are not in the version yet.
func (d *Definition) ask(ctx context.Context, hook *apiextensionsv1.WebhookConversion, objs []api.Object, to *api.Resource) ([]api.Object, error) {
	out := slices.Clone(objs)
	var at []int
	for i, o := range objs {
		if o.GetObjectKind().GroupVersionKind().Version != to.Version {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return out, nil
	}
	from := objs[at[0]].GetObjectKind().GroupVersionKind()
	failed := func(err error) error { return fmt.Errorf("conversion webhook for %v failed: %w", from, err) }
	review, err := newReview(hook.ConversionReviewVersions, to.GroupVersion().String())
	if err != nil {
		return nil, err
	}
	for _, i := range at {
		b, err := json.Marshal(objs[i])
		if err != nil {
			return nil, err
		}
		review.Request.Objects = append(review.Request.Objects, runtime.RawExtension{Raw: b})
	}
	body, err := json.Marshal(review)
	if err != nil {
		return nil, err
	}
	if d.webhook == nil {
		return nil, failed(errors.New("nothing here reaches webhooks"))
	}
	answer, err := d.webhook(ctx, hook.ClientConfig, body)
	if err != nil {
		return nil, failed(err)
	}
	converted, err := readReview(review, answer)
	if err != nil {
		return nil, failed(err)
	}
	if len(converted) != len(at) {
		return nil, fmt.Errorf("conversion webhook for %v returned %d objects, expected %d", from, len(converted), len(at))
	}
	for n, i := range at {
		o, in, err := accept(objs[i].(*Object), converted[n].Raw, to)
		if err != nil {
			return nil, fmt.Errorf("conversion webhook for %v returned invalid %s: %w", from, in.of(n, len(at)), err)
		}
		out[i] = o
	}
	return out, nil
}

var reviewVersions = []string{"v1", "v1beta1"}

// newReview is a review in the first version that both sides know. The two are
// the same but for the name.
func newReview(versions []string, to string) (*apiextensionsv1.ConversionReview, error) {
	for _, v := range versions {
		if slices.Contains(reviewVersions, v) {
			r := &apiextensionsv1.ConversionReview{Request: &apiextensionsv1.ConversionRequest{DesiredAPIVersion: to, UID: uuid.NewUUID()}}
			r.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: v, Kind: "ConversionReview"})
			return r, nil
		}
	}
	return nil, errors.New("no supported conversion review versions")
}

// readReview returns the objects of an answer to asked.
func readReview(asked *apiextensionsv1.ConversionReview, answer []byte) ([]runtime.RawExtension, error) {
	var got apiextensionsv1.ConversionReview
	if err := json.Unmarshal(answer, &got); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	v1 := asked.GroupVersionKind().Version == "v1"
	if v1 && got.GroupVersionKind() != asked.GroupVersionKind() {
		return nil, fmt.Errorf("expected webhook response of %v, got %v", asked.GroupVersionKind(), got.GroupVersionKind())
	}
	r := got.Response
	switch {
	case r == nil:
		return nil, errors.New("no response provided")
	case v1 && r.UID != asked.Request.UID:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", asked.Request.UID, r.UID)
	case r.Result.Status != metav1.StatusSuccess && r.Result.Message != "":
		return nil, errors.New(r.Result.Message)
	case r.Result.Status != metav1.StatusSuccess:
		return nil, fmt.Errorf("response.result.status was '%s', not 'Success'", r.Result.Status)
	}
	return r.ConvertedObjects, nil
}

// A part of a converted object is what is wrong with it.
type part int

const (
	form part = iota // what it is at all
	identity
	metadata
)

// of tells the part of one of many converted objects, or of the only one.
func (p part) of(n, many int) string {
	switch {
	case many > 1 && p == metadata:
		return fmt.Sprintf("metadata in object at index %d", n)
	case many > 1:
		return fmt.Sprintf("converted object at index %d", n)
	}
	return [...]string{form: "object at index 0", identity: "object", metadata: "metadata"}[p]
}

// accept reads a converted object. Of its metadata only labels and annotations
// may have changed. With an error it says what is wrong.
func accept(was *Object, text []byte, to *api.Resource) (*Object, part, error) {
	o := &Object{of: to.Codec.(codec).v}
	if _, err := o.ReadJSON(text, false); err != nil {
		return nil, form, err
	}
	if got := o.GroupVersionKind().GroupVersion(); got != to.GroupVersion() {
		return nil, form, fmt.Errorf("invalid groupVersion (expected %v, received %v)", to.GroupVersion(), got)
	}
	if o.Kind != was.Kind {
		return nil, form, fmt.Errorf("invalid kind (expected %v, received %v)", was.Kind, o.Kind)
	}
	for _, c := range []struct{ what, was, is string }{
		{"name", was.Name, o.Name}, {"namespace", was.Namespace, o.Namespace}, {"UID", string(was.UID), string(o.UID)},
	} {
		if c.was != c.is {
			return nil, identity, fmt.Errorf("must have the same %s: %v != %v", c.what, c.was, c.is)
		}
	}
	labels, annotations := o.Labels, o.Annotations
	was.ObjectMeta.DeepCopyInto(&o.ObjectMeta)
	o.Labels, o.Annotations = labels, annotations
	if err := validMetadata(o); err != nil {
		return nil, metadata, err
	}
	return o, form, nil
}
