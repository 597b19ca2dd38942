package api_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
)

// script answers lists and watches from what a test has written down.
type script struct {
	t     *testing.T
	steps []func(r *api.Request) (*api.Response, error)
	asked []string
}

func (s *script) Handle(_ context.Context, r *api.Request) (*api.Response, error) {
	s.asked = append(s.asked, fmt.Sprintf("%s %s", r.Verb, r.At.ResourceVersion))
	if len(s.steps) == 0 {
		return nil, errors.New("the script is over")
	}
	step := s.steps[0]
	s.steps = s.steps[1:]
	return step(r)
}

func item(name string, rev int64) *api.Item {
	return api.NewItem(widget.Def(), rev, nil, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

func listed(rev int64, items ...*api.Item) func(*api.Request) (*api.Response, error) {
	return func(*api.Request) (*api.Response, error) {
		return &api.Response{List: &api.ItemList{Items: items, Revision: rev}}, nil
	}
}

func watched(end error, events ...api.Event) func(*api.Request) (*api.Response, error) {
	return func(*api.Request) (*api.Response, error) {
		return &api.Response{Events: func(yield func(api.Event, error) bool) {
			for _, e := range events {
				if !yield(e, nil) {
					return
				}
			}
			if end != nil {
				yield(api.Event{}, end)
			}
		}}, nil
	}
}

func failing(err error) func(*api.Request) (*api.Response, error) {
	return func(*api.Request) (*api.Response, error) { return nil, err }
}

// Follow resumes where a watch ended, and begins anew when that is too old.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{t: t, steps: []func(*api.Request) (*api.Response, error){
			failing(errors.New("not yet")),
			listed(5, item("a", 4)),
			watched(nil, api.Event{Type: watch.Added, Item: item("b", 6), Revision: 6}, api.Event{Type: watch.Bookmark, Revision: 8}),
			watched(errors.New("broken off"), api.Event{Type: watch.Modified, Item: item("b", 9), Revision: 9}),
			watched(apierrors.NewResourceExpired("too old")),
			listed(20, item("c", 12)),
			watched(nil, api.Event{Type: watch.Deleted, Item: item("c", 21), Revision: 21}),
		}}
		var got, failed []string
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for c := range widget.Follow(ctx, s, "", api.Selectors{}, func(err error) { failed = append(failed, err.Error()) }) {
			switch {
			case c.Reset:
				got = append(got, fmt.Sprintf("RESET %s @%d", c.All[0].Name, c.Revision))
			case c.Object == nil:
				got = append(got, fmt.Sprintf("%s @%d", c.Type, c.Revision))
			default:
				got = append(got, fmt.Sprintf("%s %s @%d", c.Type, c.Object.Name, c.Revision))
			}
			if c.Revision == 21 {
				break
			}
		}
		want := "RESET a @5, ADDED b @6, BOOKMARK @8, MODIFIED b @9, RESET c @20, DELETED c @21"
		if g := strings.Join(got, ", "); g != want {
			t.Errorf("changes %s\nwant    %s", g, want)
		}
		if g := strings.Join(s.asked, ", "); g != "list , list , watch 5, watch 8, watch 9, list , watch 20" {
			t.Errorf("asked: %s", g)
		}
		if len(failed) != 2 || failed[0] != "follow pods: not yet" || !strings.Contains(failed[1], "too old") {
			t.Errorf("failures: %q", failed)
		}
	})
}

// The typed client says so when an answer is of another type.
func TestClientTypes(t *testing.T) {
	h := api.HandlerFunc(func(_ context.Context, r *api.Request) (*api.Response, error) {
		if r.User.Name != "me" {
			t.Errorf("asked as %q", r.User.Name)
		}
		return &api.Response{Object: &corev1.Secret{}}, nil
	})
	_, err := widget.Get(t.Context(), api.As(api.User{Name: "me"}, h), "a", "x")
	if err == nil || !strings.Contains(err.Error(), "get of pods answered with *v1.Secret") {
		t.Errorf("%v", err)
	}
}
