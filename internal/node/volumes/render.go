package volumes

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/node"
)

// A payload is what a volume is to show.
type payload struct {
	files map[string]file
	renew time.Time // when a token in it must be fetched anew
	tmpfs bool
}

// render writes a volume whose files come from the API. Others are left alone.
func (p *podVolumes) render(ctx context.Context, v *corev1.Volume) (node.Volume, error) {
	out := &payload{files: map[string]file{}}
	var err error
	dir := p.dir(v)
	switch {
	case v.ConfigMap != nil:
		c := v.ConfigMap
		err = p.object(ctx, out, "configmaps", c.Name, c.Items, c.Optional, mode(c.DefaultMode))
	case v.Secret != nil:
		s := v.Secret
		out.tmpfs = true
		err = p.object(ctx, out, "secrets", s.SecretName, s.Items, s.Optional, mode(s.DefaultMode))
	case v.DownwardAPI != nil:
		err = p.downward(out, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode))
	case v.Projected != nil:
		out.tmpfs = true
		for i := range v.Projected.Sources {
			if err = p.projected(ctx, out, &v.Projected.Sources[i], mode(v.Projected.DefaultMode), dir); err != nil {
				break
			}
		}
	default:
		return node.Volume{}, nil
	}
	if err != nil {
		return node.Volume{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return node.Volume{}, err
	}
	if out.tmpfs {
		if err := p.tmpfs(dir, 0); err != nil {
			return node.Volume{}, err
		}
	}
	if err := own(dir, nil, group(p.run.Pod), 0o777|fs.ModeSticky); err != nil {
		return node.Volume{}, err
	}
	if _, err := writeAtomic(dir, out.files, p.m.Clock.Now(), group(p.run.Pod)); err != nil {
		return node.Volume{}, err
	}
	p.renewAt(out.renew)
	return node.Volume{Path: dir, ReadOnly: true}, nil
}

func mode(m *int32) fs.FileMode {
	if m == nil {
		return 0o644
	}
	return fs.FileMode(*m).Perm()
}

// object adds the entries of a ConfigMap or Secret, all or those that items name.
func (p *podVolumes) object(ctx context.Context, out *payload, kind, name string, items []corev1.KeyToPath, optional *bool, m fs.FileMode) error {
	data, err := p.m.sources.get(ctx, p, kind, p.run.Pod.Namespace, name)
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	if err != nil {
		return err
	}
	if len(items) == 0 {
		for k, v := range data {
			out.files[k] = file{data: v, mode: m}
		}
		return nil
	}
	for _, it := range items {
		v, ok := data[it.Key]
		if !ok {
			if optional != nil && *optional {
				continue
			}
			return fmt.Errorf("references non-existent %s key: %s", map[string]string{"configmaps": "config", "secrets": "secret"}[kind], it.Key)
		}
		if err := clean(it.Path); err != nil {
			return err
		}
		f := file{data: v, mode: m}
		if it.Mode != nil {
			f.mode = mode(it.Mode)
		}
		out.files[filepath.Clean(it.Path)] = f
	}
	return nil
}

// downward adds files with fields of the pod.
func (p *podVolumes) downward(out *payload, items []corev1.DownwardAPIVolumeFile, m fs.FileMode) error {
	pod := p.run.Pod
	for i := range items {
		it := &items[i]
		var text string
		var err error
		switch {
		case it.FieldRef != nil:
			text, err = node.MetaField(pod, it.FieldRef.FieldPath)
		case it.ResourceFieldRef != nil:
			text, err = p.resource(it.ResourceFieldRef)
		}
		if err != nil {
			return err
		}
		if err := clean(it.Path); err != nil {
			return err
		}
		f := file{data: []byte(text), mode: m}
		if it.Mode != nil {
			f.mode = mode(it.Mode)
		}
		out.files[filepath.Clean(it.Path)] = f
	}
	return nil
}

func (p *podVolumes) resource(r *corev1.ResourceFieldSelector) (string, error) {
	pod := p.run.Pod
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == r.ContainerName {
				return node.ResourceField(&list[i], r, p.m.Allocatable)
			}
		}
	}
	return "", fmt.Errorf("container %s not found", r.ContainerName)
}

func (p *podVolumes) projected(ctx context.Context, out *payload, s *corev1.VolumeProjection, m fs.FileMode, dir string) error {
	switch {
	case s.ConfigMap != nil:
		return p.object(ctx, out, "configmaps", s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional, m)
	case s.Secret != nil:
		return p.object(ctx, out, "secrets", s.Secret.Name, s.Secret.Items, s.Secret.Optional, m)
	case s.DownwardAPI != nil:
		return p.downward(out, s.DownwardAPI.Items, m)
	case s.ServiceAccountToken != nil:
		return p.token(ctx, out, s.ServiceAccountToken, m, dir)
	}
	return fmt.Errorf("this kind of projected source is not known to the node")
}

// token adds a service account token bound to the pod. One that is there already
// is kept until most of its life is over.
func (p *podVolumes) token(ctx context.Context, out *payload, s *corev1.ServiceAccountTokenProjection, m fs.FileMode, dir string) error {
	if err := clean(s.Path); err != nil {
		return err
	}
	pod := p.run.Pod
	tr := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}}
	if s.Audience != "" {
		tr.Spec.Audiences = []string{s.Audience}
	}
	key := s.Path + "\x00" + s.Audience
	p.m.mu.Lock()
	have := p.m.tokens[tokenKey{string(pod.UID), dir, key}]
	p.m.mu.Unlock()
	now := p.m.Clock.Now().Round(0) // by the time of day, which is what tokens end by
	if have == nil || !now.Before(have.renew) {
		name := pod.Spec.ServiceAccountName
		if name == "" {
			name = "default"
		}
		resp, err := p.m.Handler.Handle(ctx, &api.Request{Verb: api.Create, Resource: core.ServiceAccount.Def(),
			Namespace: pod.Namespace, Name: name, Sub: "token", Object: tr})
		if err != nil {
			if have == nil || !now.Before(have.ends) {
				return fmt.Errorf("failed to fetch token: %w", err)
			}
			p.m.Log.Warn("a token cannot be renewed yet", "pod", pod.Name, "err", err)
			have.renew = now.Add(time.Minute)
		} else {
			got, ok := resp.Result().(*authenticationv1.TokenRequest)
			if !ok {
				return fmt.Errorf("failed to fetch token: the API answered with %T", resp.Result())
			}
			ends := got.Status.ExpirationTimestamp.Time
			have = &token{text: got.Status.Token, ends: ends, renew: now.Add(min(ends.Sub(now)*8/10, 24*time.Hour))}
			p.m.mu.Lock()
			p.m.tokens[tokenKey{string(pod.UID), dir, key}] = have
			p.m.mu.Unlock()
		}
	}
	f := file{data: []byte(have.text), mode: m}
	if g := group(pod); g != nil {
		f.mode = 0o600
	} else if u := commonUser(pod); u != nil {
		f.mode, f.uid = 0o600, u
	}
	out.files[filepath.Clean(s.Path)] = f
	if out.renew.IsZero() || have.renew.Before(out.renew) {
		out.renew = have.renew
	}
	return nil
}

type tokenKey struct{ uid, dir, key string }

// A token is one that was fetched, with when it is to be fetched again.
type token struct {
	text        string
	ends, renew time.Time
}

// clockLook is how often a wait for a time of day looks at the clock: a timer
// does not know that the clock was set, or that the machine slept.
const clockLook = time.Minute

// renewAt has the volumes written again at t, if not before. The pod is locked.
func (p *podVolumes) renewAt(t time.Time) {
	if t = t.Round(0); t.IsZero() || !p.due.IsZero() && !t.Before(p.due) {
		return
	}
	p.due = t
	p.arm()
}

func (p *podVolumes) arm() {
	if p.unset != nil {
		p.unset()
	}
	p.unset = p.m.Clock.AfterFunc(min(max(p.due.Sub(p.m.Clock.Now()), time.Second), clockLook), p.look)
}

// look has the volumes written if it is time.
func (p *podVolumes) look() {
	p.mu.Lock()
	if p.closed || p.due.IsZero() {
		p.mu.Unlock()
		return
	}
	if p.m.Clock.Now().Round(0).Before(p.due) {
		p.arm()
		p.mu.Unlock()
		return
	}
	p.due = time.Time{}
	p.mu.Unlock()
	p.refresh("token")
}

// commonUser is the user that all containers run as, if the pod says so.
func commonUser(pod *corev1.Pod) *int64 {
	var user *int64
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			var u *int64
			if sc := list[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				u = sc.RunAsUser
			} else if ps := pod.Spec.SecurityContext; ps != nil {
				u = ps.RunAsUser
			}
			if u == nil || user != nil && *user != *u {
				return nil
			}
			user = u
		}
	}
	return user
}
