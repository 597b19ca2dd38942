// Package volumes makes the volumes of pods on a node: emptyDir, hostPath, claims of
// folders of the node (persistent volumes of kind hostPath and local), and those whose
// files come from the API (configMap, secret, downwardAPI, projected),
// which are kept up to date by watching what they show.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/node"
	"proa/internal/node/mounts"
	"proa/internal/store"
)

// Options are what the volumes need. Handler is required.
type Options struct {
	Handler     api.Handler // asks in the name of the node's user
	Clock       store.Clock
	Log         *slog.Logger
	Allocatable corev1.ResourceList // of the node, for downward API files
	// Plain leaves tmpfs out: without root, secrets and memory volumes are plain folders. For tests.
	Plain bool
}

// A Manager makes volumes. Its [Manager.Step] is one of the node's steps.
type Manager struct {
	Options
	sources *sources
	wg      sync.WaitGroup
	mu      sync.Mutex
	pods    map[types.UID]*podVolumes
	tokens  map[tokenKey]*token
}

// New returns a manager. Close it after the agent has ended.
func New(o Options) *Manager {
	if o.Clock == nil {
		o.Clock = store.SystemClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{Options: o, pods: map[types.UID]*podVolumes{}, tokens: map[tokenKey]*token{}}
	m.sources = &sources{m: m, all: map[sourceKey]*source{}}
	return m
}

// Close stops following. Volumes stay as they are.
func (m *Manager) Close() {
	m.mu.Lock()
	for _, p := range m.pods {
		p.halt()
	}
	m.mu.Unlock()
	m.sources.close()
	m.wg.Wait()
}

// Step is the step that makes a pod's volumes.
func (m *Manager) Step() *node.Step {
	return &node.Step{Name: "volumes", Start: m.start, Stop: m.stop}
}

// podVolumes are the volumes of one pod that follow the API.
type podVolumes struct {
	m       *Manager
	run     *node.Run
	mu      sync.Mutex // one rendering at a time
	ready   bool       // all volumes are there
	closed  bool
	due     time.Time // of the next writing, because a token gets old
	unset   func()
	running bool
	again   bool
}

func (m *Manager) of(run *node.Run) *podVolumes {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pods[run.Pod.UID]
	if p == nil || p.run != run {
		if p != nil {
			p.halt()
			m.sources.release(p)
		}
		p = &podVolumes{m: m, run: run}
		m.pods[run.Pod.UID] = p
	}
	return p
}

func (p *podVolumes) halt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.unset != nil {
		p.unset()
	}
}

// start makes all volumes of a pod.
func (m *Manager) start(ctx context.Context, run *node.Run) error {
	if len(run.Pod.Spec.Volumes) == 0 {
		return nil
	}
	p := m.of(run)
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range run.Pod.Spec.Volumes {
		v := &run.Pod.Spec.Volumes[i]
		vol, err := p.make(ctx, v)
		if err != nil {
			return &node.StepError{Reason: "FailedMount", Err: err,
				Message: fmt.Sprintf("MountVolume.SetUp failed for volume %q : %s", v.Name, err)}
		}
		run.Volumes[v.Name] = vol
	}
	p.ready = true
	return nil
}

// stop undoes mounts; the files go with the pod's folder.
func (m *Manager) stop(_ context.Context, run *node.Run) error {
	m.mu.Lock()
	p := m.pods[run.Pod.UID]
	delete(m.pods, run.Pod.UID)
	for k := range m.tokens {
		if k.uid == string(run.Pod.UID) {
			delete(m.tokens, k)
		}
	}
	m.mu.Unlock()
	if p != nil {
		p.halt()
		m.sources.release(p)
	}
	if run.Dir == "" {
		return nil
	}
	return mounts.Below(run.Dir)
}

// refresh writes the volumes anew after a change, or wakes a pod that waits for it.
func (p *podVolumes) refresh(what string) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	if !p.ready {
		p.mu.Unlock()
		p.run.Changed()
		return
	}
	if p.again = true; p.running {
		p.mu.Unlock()
		return
	}
	p.running = true
	p.mu.Unlock()
	p.m.wg.Go(func() { p.rewrite(what) })
}

func (p *podVolumes) rewrite(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.again && !p.closed {
		p.again, p.due = false, time.Time{}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		for i := range p.run.Pod.Spec.Volumes {
			v := &p.run.Pod.Spec.Volumes[i]
			if _, err := p.render(ctx, v); err != nil {
				p.m.Log.Warn("a volume cannot be brought up to date", "pod", p.run.Pod.Name, "volume", v.Name, "change", what, "err", err)
			}
		}
		cancel()
	}
	p.running = false
}

func kindFolder(v *corev1.Volume) string {
	switch {
	case v.EmptyDir != nil:
		return "kubernetes.io~empty-dir"
	case v.ConfigMap != nil:
		return "kubernetes.io~configmap"
	case v.Secret != nil:
		return "kubernetes.io~secret"
	case v.DownwardAPI != nil:
		return "kubernetes.io~downward-api"
	}
	return "kubernetes.io~projected"
}

func (p *podVolumes) dir(v *corev1.Volume) string {
	return filepath.Join(p.run.Dir, "volumes", kindFolder(v), v.Name)
}

// make makes one volume.
func (p *podVolumes) make(ctx context.Context, v *corev1.Volume) (node.Volume, error) {
	switch {
	case v.HostPath != nil:
		return node.Volume{Path: v.HostPath.Path}, hostPath(v.HostPath)
	case v.EmptyDir != nil:
		return p.emptyDir(v)
	case v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil, v.Projected != nil:
		return p.render(ctx, v)
	case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
		return p.claimed(ctx, v)
	}
	return node.Volume{}, errors.New("this kind of volume is not known to the node")
}

func (p *podVolumes) emptyDir(v *corev1.Volume) (node.Volume, error) {
	dir := p.dir(v)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return node.Volume{}, err
	}
	if v.EmptyDir.Medium == corev1.StorageMediumMemory {
		size := int64(0)
		if q := v.EmptyDir.SizeLimit; q != nil {
			size = q.Value()
		}
		if err := p.tmpfs(dir, size); err != nil {
			return node.Volume{}, err
		}
	} else if v.EmptyDir.Medium != corev1.StorageMediumDefault {
		return node.Volume{}, fmt.Errorf("medium %q is not known to the node", v.EmptyDir.Medium)
	}
	mode := fs.FileMode(0o777)
	if g := group(p.run.Pod); g != nil {
		if err := os.Chown(dir, -1, int(*g)); err != nil {
			return node.Volume{}, err
		}
		mode |= fs.ModeSetgid
	}
	return node.Volume{Path: dir}, os.Chmod(dir, mode)
}

// tmpfs mounts memory on a folder unless that has been done.
func (p *podVolumes) tmpfs(dir string, size int64) error {
	if p.m.Plain {
		return nil
	}
	is, err := mounts.Is(dir)
	if err != nil || is {
		return err
	}
	opts := "mode=0777"
	if size > 0 {
		opts += fmt.Sprintf(",size=%d", size)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	return nil
}

func group(pod *corev1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// hostPath checks a path of the host against its type, and makes it if the type says so.
func hostPath(h *corev1.HostPathVolumeSource) error {
	typ := corev1.HostPathUnset
	if h.Type != nil {
		typ = *h.Type
	}
	st, err := os.Stat(h.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	wrong := func(is bool, what string) error {
		if missing || !is {
			return fmt.Errorf("hostPath type check failed: %s is not %s", h.Path, what)
		}
		return nil
	}
	switch typ {
	case corev1.HostPathDirectoryOrCreate:
		if missing {
			return os.MkdirAll(h.Path, 0o755)
		}
		return wrong(st.IsDir(), "a directory")
	case corev1.HostPathFileOrCreate:
		if missing {
			f, err := os.OpenFile(h.Path, os.O_CREATE, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		return wrong(st.Mode().IsRegular(), "a file")
	case corev1.HostPathDirectory:
		return wrong(!missing && st.IsDir(), "a directory")
	case corev1.HostPathFile:
		return wrong(!missing && st.Mode().IsRegular(), "a file")
	case corev1.HostPathSocket:
		return wrong(!missing && st.Mode()&fs.ModeSocket != 0, "a socket")
	case corev1.HostPathCharDev:
		return wrong(!missing && st.Mode()&fs.ModeCharDevice != 0, "a character device")
	case corev1.HostPathBlockDev:
		return wrong(!missing && st.Mode()&fs.ModeDevice != 0 && st.Mode()&fs.ModeCharDevice == 0, "a block device")
	}
	if missing { // as a bind mount would: a folder
		return os.MkdirAll(h.Path, 0o755)
	}
	return nil
}

// clean says whether a path in a volume stays inside it.
func clean(path string) error {
	if !filepath.IsLocal(path) || strings.HasPrefix(path, "..") {
		return fmt.Errorf("path %q must be relative and must not leave the volume or begin with '..'", path)
	}
	return nil
}
