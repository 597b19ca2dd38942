package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/apiserver"
	"proa/internal/kinds/core"
	"proa/internal/store"
	"proa/internal/store/snapshot"
)

// snapshotPath is where a server gives out a snapshot of its store. Like the
// profiles it is for administrators: no role but cluster-admin allows it.
const snapshotPath = "/snapshot"

// withHistory is the parameter that says whether it is to hold the history, as it
// does if nothing is said.
const withHistory = "history"

func (s *system) withSnapshot(p *plane, paths map[string]http.Handler) map[string]http.Handler {
	paths[snapshotPath] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			http.Error(w, "a snapshot is read with GET", http.StatusMethodNotAllowed)
			return
		}
		history := true
		if v := r.URL.Query().Get(withHistory); v != "" {
			var err error
			if history, err = strconv.ParseBool(v); err != nil {
				http.Error(w, withHistory+" must be true or false", http.StatusBadRequest)
				return
			}
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Disposition", `attachment; filename="proa.snapshot"`)
		h := s.snapshotHeader()
		if ns, err := core.Namespace.Get(r.Context(), p.Server, "", "kube-system"); err == nil {
			h.Cluster.UID = string(ns.UID)
		}
		if err := snapshot.Write(r.Context(), w, s.engine.Engine, h, history); err != nil && r.Context().Err() == nil {
			s.Log.Error("A snapshot was not finished", "error", err) // the client is told by the file itself
		}
	})
	return paths
}

func (s *system) snapshotHeader() snapshot.Header { return s.id.header(s.engine.place) }

func (i identity) header(place string) snapshot.Header {
	return snapshot.Header{Proa: Version().GitVersion, Store: place, Cluster: snapshot.Cluster{
		PodCIDR: i.PodCIDR.String(), ServiceCIDR: i.ServiceCIDR.String(), Domain: i.Domain}}
}

// A SnapshotRequest is what is asked of SaveSnapshot and RestoreSnapshot.
type SnapshotRequest struct {
	Places   Places
	Store    StoreConfig
	File     string
	NodeName string         // restore: of this machine's node, if the place has no cluster yet; the host's name if empty
	Replace  bool           // restore: delete what is in the store first
	Without  bool           // the history
	Above    store.Revision // restore: a revision that was given out
	Log      *slog.Logger
	Say      func(format string, args ...any) // progress, at most once a second
}

// every is how often the progress of a snapshot is told.
const every = time.Second

// SaveSnapshot writes a snapshot of the cluster's store to a file: by its server if one
// runs, from the store itself otherwise. The file appears under its name when it
// is whole, checked and on the disk; its mode is 0600, since it holds the
// cluster's Secrets.
func SaveSnapshot(ctx context.Context, r SnapshotRequest) (*snapshot.Summary, error) {
	pid, err := PID(r.Places)
	if err != nil {
		return nil, err
	}
	source := r.offline
	if pid != 0 {
		source = r.online
	}
	dir := filepath.Dir(r.File)
	f, err := os.CreateTemp(dir, "."+filepath.Base(r.File)+".*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", r.File, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	in, out := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := source(ctx, out)
		out.CloseWithError(err)
		written <- err
	}()
	sum, err := snapshot.Read(io.TeeReader(in, f), snapshot.Visitor{Record: r.counting("saved", 0)})
	in.CloseWithError(err)
	if e := <-written; e != nil && !errors.Is(e, io.ErrClosedPipe) && (err == nil || !errors.As(err, new(*snapshot.FailedError))) {
		err = e
	}
	if err != nil {
		return nil, fmt.Errorf("save a snapshot: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close(), os.Rename(f.Name(), r.File), syncDir(dir)); err != nil {
		return nil, fmt.Errorf("write %s: %w", r.File, err)
	}
	return sum, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// counting tells the progress.
func (r SnapshotRequest) counting(did string, of int64) func(store.Record) error {
	n, next := int64(0), time.Now().Add(every)
	return func(store.Record) error {
		n++
		r.tell(did, n, of, &next)
		return nil
	}
}

func (r SnapshotRequest) tell(did string, n, of int64, next *time.Time) {
	now := time.Now()
	if now.Before(*next) {
		return
	}
	*next = now.Add(every)
	if of > 0 {
		r.Say("%s %d of %d objects", did, n, of)
	} else {
		r.Say("%s %d objects", did, n)
	}
}

// online asks the running server.
func (r SnapshotRequest) online(ctx context.Context, w io.Writer) error {
	client, url, err := httpClient(r.Places.Kubeconfig())
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s%s?%s=%v", url, snapshotPath, withHistory, !r.Without), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the server at %s: %w", url, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return fmt.Errorf("the server at %s refuses: %s: %s", url, resp.Status, text)
	}
	_, err = io.Copy(w, resp.Body)
	return err
}

// offline reads the store of a cluster that does not run.
func (r SnapshotRequest) offline(ctx context.Context, w io.Writer) error {
	i, err := identityOf(r.Places)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no cluster in %s", r.Places.Root)
	}
	if err != nil {
		return err
	}
	s, err := OpenStorage(ctx, r.Places, r.Store, r.Log)
	if err != nil {
		return err
	}
	defer s.Close()
	h := i.header(s.place)
	h.Cluster.UID = uidIn(ctx, s.Engine)
	return snapshot.Write(ctx, w, s.Engine, h, !r.Without)
}

// uidIn reads the cluster's UID from its store, without a server; empty if there is none.
func uidIn(ctx context.Context, e store.Engine) string {
	rec, _, err := e.Get(ctx, apiserver.Prefix(core.Namespace.Def().GroupResource())+metav1.NamespaceSystem)
	if err != nil || rec == nil {
		return ""
	}
	ns, err := core.Namespace.Def().Codec.Decode(rec.Value)
	if err != nil {
		return ""
	}
	return string(ns.GetUID())
}

// InspectSnapshot checks a snapshot and says what it holds.
func InspectSnapshot(file string) (*snapshot.Summary, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := snapshot.Read(f, snapshot.Visitor{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// RestoreSnapshot fills the cluster's store from a snapshot. No server may run on it.
// From then on this store is the cluster's; a place that had no cluster yet gets
// the address ranges and the domain of the snapshot's.
func RestoreSnapshot(ctx context.Context, r SnapshotRequest) (*snapshot.Summary, error) {
	if pid, err := PID(r.Places); err != nil {
		return nil, err
	} else if pid != 0 {
		return nil, fmt.Errorf("proa (process %d) runs the cluster in %s: stop it first with 'proa down'", pid, r.Places.Root)
	}
	if r.Store.place() == StoreMemory {
		return nil, errors.New("--store=memory keeps nothing, so nothing can be restored into it")
	}
	for _, dir := range []string{r.Places.Root, r.Places.Run, r.Places.Etc} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	r.Store.AnyUnfinished, r.Store.AnyOfThisPlace = true, true
	s, err := OpenStorage(ctx, r.Places, r.Store, r.Log)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	next := time.Now().Add(every)
	restore := snapshot.Restore{Engine: s.Engine, Name: r.File, Replace: r.Replace, Above: r.Above, Forget: r.Without,
		Open: func() (io.ReadCloser, error) { return os.Open(r.File) },
		Say:  func(n, of int64) { r.tell("restored", n, of, &next) }}
	sum, err := restore.Run(ctx)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	return sum, r.adopt(sum)
}

// adopt notes where the cluster's data is now, and who the cluster is if this
// place does not know.
func (r SnapshotRequest) adopt(sum *snapshot.Summary) error {
	i, err := identityOf(r.Places)
	if errors.Is(err, fs.ErrNotExist) {
		i, err = identity{Domain: sum.Cluster.Domain}, nil
		for text, to := range map[string]*netip.Prefix{sum.Cluster.PodCIDR: &i.PodCIDR, sum.Cluster.ServiceCIDR: &i.ServiceCIDR} {
			if text == "" {
				continue
			}
			if *to, err = netip.ParsePrefix(text); err != nil {
				return fmt.Errorf("the snapshot's address range: %w", err)
			}
		}
		if i.NodeName = r.NodeName; i.NodeName == "" {
			if i.NodeName, err = nodeName(); err != nil {
				return err
			}
		}
	}
	if err != nil {
		return err
	}
	i.Store = r.Store.URL
	return i.save(r.Places)
}
