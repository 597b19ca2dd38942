package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Pods is a contestant that serves pods, with all that runs for it.
type Pods struct {
	Target
	Name      string // of its rows
	Is        string // as a sentence names it
	Path      string // of the pods of namespace default
	JSON      string // a pod as it takes it: see Pod
	Protobuf  string // empty: it has no protobuf
	Etcd      *Etcd  // nil: it has its own store
	Processes []*Process
}

// Stop ends its processes, the last first.
func (p *Pods) Stop() {
	for i := len(p.Processes) - 1; i >= 0; i-- {
		p.Processes[i].Stop()
	}
}

// CPU is the processor time that its processes have used.
func (p *Pods) CPU() (sum time.Duration) {
	for _, p := range p.Processes {
		used, err := CPU(p.PID())
		if err != nil {
			return 0 // it has ended: the next request will say so
		}
		sum += used
	}
	return sum
}

// PSS is the memory of its processes in bytes.
func (p *Pods) PSS() (sum int64, err error) {
	for _, p := range p.Processes {
		n, err := PSS(p.PID())
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// Peak is the most memory that the process with the API has had in RAM at once
// since ResetPeak, in bytes.
func (p *Pods) Peak() (int64, error) { return peak(p.Processes[0].PID()) }

// ResetPeak begins anew (proc(5), clear_refs).
func (p *Pods) ResetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.Processes[0].PID()), []byte("5"), 0)
}

// Syncs is how often its store has synced, as it says itself.
func (p *Pods) Syncs() (float64, error) {
	ctx := context.Background()
	if p.Etcd != nil {
		b, err := Plain(ctx, p.Etcd.Metrics+"/metrics")
		return Metric(b, "etcd_disk_wal_fsync_duration_seconds_count"), err
	}
	b, err := p.Get(ctx, p.Client(), "/metrics")
	return Metric(b, "proa_store_syncs_total"), err
}

// StartProa starts a control plane with one pretend node. The pods of the
// benchmarks ask for another scheduler, so they stay where they are.
func StartProa(core int, dir string) (*Pods, error) {
	proa, err := Proa()
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	lastPort += 2 // it takes three
	root := filepath.Join(dir, "proa")
	p, err := Start(core, root+".log", proa, "up", "--pretend", "--root", root, "--ports", strconv.Itoa(port), "--bind", "127.0.0.1", "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	s := &Pods{Name: "proa", Is: "proa", Path: "/api/v1/namespaces/default/pods", JSON: Pod("v1"), Processes: []*Process{p}}
	err = p.Await("proa", 10*time.Millisecond, func(ctx context.Context) error {
		if s.Target, err = TargetOf(filepath.Join(root, "etc", "kubeconfig")); err != nil {
			return err
		}
		// The namespace's account is there when the controllers run.
		_, err := s.Get(ctx, s.Client(), "/api/v1/namespaces/default/serviceaccounts/default")
		return err
	})
	if err == nil {
		s.Protobuf, err = Protobuf(s.JSON)
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// StartTyped starts Kubernetes' generic registry with typed pods, on an etcd of its own.
func StartTyped(core int, bin, dir string, id *Identity) (*Pods, error) {
	dir = filepath.Join(dir, "typed")
	e, err := StartEtcd(core, bin, dir, id)
	if err != nil {
		return nil, err
	}
	s := &Pods{Name: "typed", Is: "typed Pods on Kubernetes' generic registry and etcd", Path: "/api/v1/namespaces/default/pods", JSON: Pod("v1"), Etcd: e}
	if s.Processes, s.Target, err = startTyped(core, bin, dir, id, e); err == nil {
		s.Protobuf, err = Protobuf(s.JSON)
	}
	if err != nil {
		s.Stop()
		e.Stop()
		return nil, err
	}
	return s, nil
}

func startTyped(core int, bin, dir string, id *Identity, e *Etcd) ([]*Process, Target, error) {
	port, err := FreePort()
	if err != nil {
		return nil, Target{}, err
	}
	config, err := id.TLS()
	t := Target{"https://127.0.0.1:" + strconv.Itoa(port), config}
	if err != nil {
		return nil, t, err
	}
	p, err := Start(core, filepath.Join(dir, "typed.log"), filepath.Join(bin, "typed"), "-etcd", e.Plain, "-port", strconv.Itoa(port),
		"-cert", id.file("server.crt"), "-key", id.file("server.key"), "-client-ca", id.file("ca.crt"))
	if err != nil {
		return nil, t, err
	}
	client := t.Client()
	err = p.Await("the typed server", 5*time.Millisecond, func(ctx context.Context) error {
		_, err := t.Get(ctx, client, "/api/v1/namespaces/default/pods")
		return err
	})
	return []*Process{p, e.Process}, t, err
}

// StartPods starts the servers of pods below dir one after the other, proa, typed
// Pods and custom resources, or of these the only one that is named, and hands
// each to use as soon as it is ready. Whoever uses it stops it.
func StartPods(core int, refs, dir, only string, use func(*Pods) error) error {
	id, err := NewIdentity(dir)
	if err != nil {
		return err
	}
	for _, x := range []struct {
		name  string
		start func() (*Pods, error)
	}{
		{"proa", func() (*Pods, error) { return StartProa(core, dir) }},
		{"typed", func() (*Pods, error) { return StartTyped(core, refs, dir, id) }},
		{"crd", func() (*Pods, error) { return StartCRDPods(core, refs, dir, id) }},
	} {
		if only != "" && only != x.name {
			continue
		}
		p, err := x.start()
		if err == nil {
			err = use(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// StartCRDPods starts the server of custom resources with pods of any content,
// on an etcd of its own.
func StartCRDPods(core int, bin, dir string, id *Identity) (*Pods, error) {
	dir = filepath.Join(dir, "crd")
	e, err := StartEtcd(core, bin, dir, id)
	if err != nil {
		return nil, err
	}
	c, err := StartCRD(core, bin, dir, id, e)
	if err != nil {
		e.Stop()
		return nil, err
	}
	s := &Pods{Target: c.Target, Name: "crd", Is: "custom resources on Kubernetes' API machinery and etcd", Path: "/apis/bench.proa.local/v1/namespaces/default/pods",
		JSON: Pod("bench.proa.local/v1"), Etcd: e, Processes: []*Process{c.Process, e.Process}}
	client := c.Client()
	_, err = c.Do(context.Background(), client, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", CRDManifest)
	if err == nil {
		err = c.Await("the custom resource", 20*time.Millisecond, func(ctx context.Context) error {
			_, err := c.Get(ctx, client, s.Path)
			return err
		})
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Nginx is a running nginx that serves a folder over HTTP/2 and TLS.
type Nginx struct {
	*Process
	Target
}

// ErrNoNginx means that nginx is not installed and cannot be fetched.
var ErrNoNginx = errors.New("no nginx: it is not installed, and apt-get cannot download it")

// nginx finds the program, or fetches Debian's package into bin.
func nginx(bin string) (string, error) {
	if file, err := exec.LookPath("nginx"); err == nil {
		return file, nil
	}
	dir := filepath.Join(bin, "nginx")
	file := filepath.Join(dir, "usr", "sbin", "nginx")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("sh", "-c", "apt-get download -qq nginx && dpkg -x nginx_*.deb . && rm -f nginx_*.deb")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %v %s", ErrNoNginx, err, out)
	}
	_, err := os.Stat(file)
	return file, err
}

const nginxConf = `daemon off; master_process off; worker_processes 1; pid %[1]s/nginx.pid; error_log stderr error;
events { worker_connections 4096; }
http { access_log off; sendfile on; tcp_nodelay on; open_file_cache max=20000 inactive=1h; open_file_cache_valid 1h; default_type application/json;
  client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
  keepalive_requests 1000000000; http2_max_concurrent_streams 1000;
  server { listen 127.0.0.1:%[2]d ssl http2; ssl_certificate %[3]s; ssl_certificate_key %[4]s; ssl_protocols TLSv1.3; root %[5]s; } }
`

// StartNginx starts it on a folder with files; logs and its own files go into dir.
func StartNginx(core int, bin, dir, files string, id *Identity) (*Nginx, error) {
	file, err := nginx(bin)
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	config, err := id.TLS()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "nginx")
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(nginxConf, dir, port, id.file("server.crt"), id.file("server.key"), files)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	n := &Nginx{Target: Target{"https://127.0.0.1:" + strconv.Itoa(port), config}}
	if n.Process, err = Start(core, filepath.Join(dir, "log"), file, "-p", dir, "-c", conf, "-e", filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	client := n.Client()
	err = n.Await("nginx", 5*time.Millisecond, func(ctx context.Context) error {
		_, err := n.Get(ctx, client, "/ready")
		return err
	})
	if err != nil {
		n.Stop()
		return nil, err
	}
	return n, nil
}
