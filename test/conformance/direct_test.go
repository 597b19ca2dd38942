package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
)

// direct asks the Handler in this process, without any transport.
type direct struct{ w *world }

func (d direct) call(ctx context.Context, q *ask) (*answer, error) {
	r, err := d.request(q)
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return refused(status.Status())
	}
	if err != nil {
		return nil, err
	}
	resp, err := d.w.local.Handle(ctx, r)
	if err != nil {
		if !errors.As(err, &status) {
			return nil, fmt.Errorf("an error that is no status: %w", err)
		}
		return refused(status.Status())
	}
	a := &answer{code: resp.Code, warnings: resp.Warnings}
	if a.code == 0 {
		a.code = http.StatusOK
	}
	switch {
	case resp.Events != nil:
		a.events = drain(ctx, resp)
	case resp.History != nil:
		a.body, err = value(resp.History)
	case resp.List != nil:
		a.body, err = listValue(r.Resource, resp.List)
	case resp.Status != nil:
		a.body, err = value(resp.Status)
	case resp.Item != nil:
		a.body, err = itemValue(resp.Item)
	default:
		if a.body, err = value(resp.Object); r.Resource.Virtual { // a transport says what it is
			o, _ := a.body.(map[string]any)
			o["apiVersion"], o["kind"] = r.Resource.GroupVersion().String(), r.Resource.Kind
		}
	}
	return a, err
}

func refused(st metav1.Status) (*answer, error) {
	st.Kind, st.APIVersion = "Status", "v1"
	body, err := value(&st)
	return &answer{code: int(st.Code), body: body}, err
}

func value(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jsonValue(b)
}

func itemValue(i *api.Item) (any, error) {
	b, err := i.JSON()
	if err != nil {
		return nil, err
	}
	return jsonValue(b)
}

func listValue(r *api.Resource, l *api.ItemList) (any, error) {
	items := make([]any, len(l.Items))
	for i, o := range l.Items {
		v, err := itemValue(o)
		if err != nil {
			return nil, err
		}
		items[i] = v
	}
	meta := map[string]any{"resourceVersion": strconv.FormatInt(l.Revision, 10)}
	if l.Continue != "" {
		meta["continue"] = l.Continue
	}
	if l.Remaining != nil {
		meta["remainingItemCount"] = float64(*l.Remaining)
	}
	return map[string]any{"kind": r.ListKind, "apiVersion": r.GroupVersion().String(), "metadata": meta, "items": items}, nil
}

// drain makes the events of a watch what they are on the wire.
func drain(ctx context.Context, resp *api.Response) <-chan event {
	out := make(chan event)
	go func() {
		defer close(out)
		for e, err := range resp.Events {
			var ev event
			var status apierrors.APIStatus
			switch {
			case errors.As(err, &status):
				a, err := refused(status.Status())
				ev = event{map[string]any{"type": "ERROR", "object": a.body}, err}
			case err != nil:
				ev.err = err
			case e.Item == nil:
				meta := map[string]any{"resourceVersion": strconv.FormatInt(e.Revision, 10)}
				if e.InitialEnd {
					meta["annotations"] = map[string]any{metav1.InitialEventsAnnotationKey: "true"}
				}
				ev.body = map[string]any{"type": string(e.Type), "object": map[string]any{"metadata": meta}}
			default:
				v, err := itemValue(e.Item)
				if o, ok := v.(map[string]any); ok && e.Revision > e.Item.Revision {
					o["metadata"].(map[string]any)["resourceVersion"] = strconv.FormatInt(e.Revision, 10)
				}
				ev = event{map[string]any{"type": string(e.Type), "object": v}, err}
			}
			select {
			case out <- ev:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// request makes an api.Request of a path with a query.
func (d direct) request(q *ask) (*api.Request, error) {
	u, err := url.Parse(q.path)
	if err != nil {
		return nil, err
	}
	r := &api.Request{User: q.user}
	path, past := strings.CutPrefix(u.Path, api.HistoryPath)
	if err := d.route(path, r); err != nil {
		return nil, err
	}
	v := u.Query()
	if past {
		if r.Past, err = what(v); err != nil {
			return nil, err
		}
	}
	r.Body, r.ContentType = q.body, q.typ
	switch q.method {
	case http.MethodGet:
		r.Verb = api.Get
		if r.Name == "" {
			r.Verb = api.List
		}
		if q.watch {
			r.Verb = api.Watch
		}
		return r, reading(r, v)
	case http.MethodPost:
		r.Verb = api.Create
	case http.MethodPut:
		r.Verb = api.Update
	case http.MethodPatch:
		r.Verb, r.Patch = api.Patch, types.PatchType(q.typ)
	case http.MethodDelete:
		r.Verb = api.Delete
		if r.Name == "" {
			r.Verb = api.DeleteCollection
			if err := reading(r, v); err != nil {
				return nil, err
			}
		}
		return r, deleting(r, v)
	}
	r.Options.FieldManager = v.Get("fieldManager")
	if r.Options.FieldManager == "" && r.Patch != types.ApplyPatchType {
		r.Options.FieldManager = "conformance"
	}
	r.Options.Force = v.Get("force") == "true"
	r.Options.DryRun = v.Get("dryRun") == metav1.DryRunAll
	r.Options.FieldValidation = v.Get("fieldValidation")
	return r, nil
}

// what reads what of the past is asked for.
func what(v url.Values) (p *api.Past, err error) {
	p = &api.Past{Objects: v.Get("objects") == "true"}
	if s := v.Get("revision"); s != "" {
		p.Revision, err = strconv.ParseInt(s, 10, 64)
	}
	if s := v.Get("at"); s != "" {
		p.At, err = time.Parse(time.RFC3339Nano, s)
	}
	if s := v.Get("limit"); s != "" {
		p.Limit, err = strconv.Atoi(s)
	}
	return p, err
}

// route finds what a path names.
func (d direct) route(path string, r *api.Request) error {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	group := ""
	if parts[0] == "apis" {
		group, parts = parts[1], parts[1:]
	}
	version := parts[1]
	rest := parts[2:]
	if len(rest) > 2 && rest[0] == "namespaces" && d.resource(group, version, rest[2]) != nil {
		r.Namespace, rest = rest[1], rest[2:]
	}
	r.Resource = d.resource(group, version, rest[0])
	if r.Resource == nil || r.Namespace != "" && r.Resource.Scope == api.Cluster {
		return apierrors.NewGenericServerResponse(404, "", metav1.SchemeGroupVersion.WithResource("").GroupResource(), "", "the server could not find the requested resource", 0, true)
	}
	if len(rest) > 1 {
		r.Name = rest[1]
	}
	if len(rest) > 2 {
		r.Sub = rest[2]
	}
	return nil
}

func (d direct) resource(group, version, name string) *api.Resource {
	for _, g := range d.w.server.Groups() {
		for _, r := range g.Resources {
			if r.Group == group && r.Version == version && r.Resource == name {
				return r
			}
		}
	}
	return nil
}

func reading(r *api.Request, v url.Values) (err error) {
	if s := v.Get("labelSelector"); s != "" {
		if r.Select.Labels, err = labels.Parse(s); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	if s := v.Get("fieldSelector"); s != "" {
		if r.Select.Fields, err = fields.ParseSelector(s); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	limit, _ := strconv.ParseInt(v.Get("limit"), 10, 64)
	seconds, _ := strconv.Atoi(v.Get("timeoutSeconds"))
	r.At = api.Version{ResourceVersion: v.Get("resourceVersion"), Match: metav1.ResourceVersionMatch(v.Get("resourceVersionMatch")),
		Limit: limit, Continue: v.Get("continue"), Bookmarks: v.Get("allowWatchBookmarks") == "true", Timeout: time.Duration(seconds) * time.Second}
	if s := v.Get("sendInitialEvents"); s != "" {
		yes := s == "true"
		r.At.SendInitialEvents = &yes
	}
	return nil
}

func deleting(r *api.Request, v url.Values) error {
	var o metav1.DeleteOptions
	if len(r.Body) > 0 {
		if err := json.Unmarshal(r.Body, &o); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	} else if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&v, &o, nil); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	r.Body, r.ContentType = nil, ""
	r.Options = api.Options{DryRun: len(o.DryRun) > 0, GracePeriod: o.GracePeriodSeconds, Propagation: o.PropagationPolicy}
	if p := o.Preconditions; p != nil {
		r.Options.UID, r.Options.ResourceVersion = p.UID, p.ResourceVersion
	}
	if o.OrphanDependents != nil { //nolint:staticcheck // old clients still send it
		r.Options.Propagation = new(metav1.DeletePropagationBackground)
		if *o.OrphanDependents { //nolint:staticcheck
			r.Options.Propagation = new(metav1.DeletePropagationOrphan)
		}
	}
	return nil
}
