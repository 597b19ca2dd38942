package cli

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"proa/internal/system"
)

// A Setting is one thing that can be set: as the flag --NAME, as the environment
// variable PROA_NAME (upper case, dashes as underscores), or as the key NAME of
// the settings file. The flag wins over the environment, the environment over
// the file.
type Setting struct {
	Name    string
	Value   string // placeholder in the help
	Doc     string
	Default string
	Check   func(string) error
}

// settingList is everything that can be set.
var settingList = []Setting{
	{"root", "DIR", "folder that holds everything the node owns", system.DefaultRoot, nonEmpty},
	{"node-name", "NAME", "name of this node (the machine's host name if empty)", "", nil},
	{"ports", "PORT", "first of the three ports for API, node and registry, for a second cluster on one machine (the usual 6443, 10250 and 6450 if 0)", "0", port},
	{"bind", "ADDRESS", "address that the API listens on (every one if empty)", "", address},
	{"advertise", "ADDRESS", "address of this machine that others use (found out if empty)", "", address},
	{"pod-cidr", "CIDR", "addresses of pods (10.42.0.0/16, or the next free range, if empty)", "", cidr},
	{"service-cidr", "CIDR", "addresses of services (10.43.0.0/16, or the next free range, if empty)", "", cidr},
	{"node-ports", "FROM-TO", "ports that NodePort services may have", "30000-32767", portRange},
	{"cluster-domain", "NAME", "DNS suffix of the cluster", "cluster.local", nonEmpty},
	{"container-runtime-endpoint", "SOCKET", "use a runtime of the machine (containerd, CRI-O) instead of starting one", "", nil},
	{"tls-san", "NAME,…", "more names and addresses that the API's certificate is to be good for", "", nil},
	{"max-object-size", "SIZE", "largest object that is taken, as the body of a request (1Mi to 12Mi)", "3Mi", objectSize},
	{"store", "URL", "where the cluster's data is kept: lsm (this machine's disk), an etcd as etcd://HOST:PORT,…/PREFIX (etcds:// with TLS), or memory (nowhere: all is lost when proa ends)", system.StoreLSM, system.CheckStore},
	{"store-ca", "FILE", "authority of an etcd's certificates, in PEM (the machine's own if empty)", "", nil},
	{"store-cert", "FILE", "certificate to show to an etcd, in PEM", "", nil},
	{"store-key", "FILE", "key of that certificate, in PEM", "", nil},
	{"history", "N", "earlier states of each object that are kept (0 to 1000; none if 0)", "20", states},
	{"history-size", "SIZE", "disk space that the earlier states of all objects may take together", "256Mi", historySize},
	{"history-secrets", "BOOL", "whether earlier states of Secrets are kept, too", "false", oneOf("true", "false")},
	{"scrub-every", "TIME", "how often the whole store is read and its checksums are verified (never if 0)", "24h", duration},
	{"scrub-rate", "SIZE", "how many bytes a second that reads at most", "1Mi", positiveSize},
	{"scheduler-config", "FILE", "how pods are placed: a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1 (Kubernetes' defaults if empty)", "", nil},
	{"scheduler-seed", "N", "what chance decides between equal nodes by; the same number gives the same choices (of the clock if 0)", "0", seed},
	{"log-level", "LEVEL", "debug, info, warn or error", "info", oneOf("debug", "info", "warn", "error")},
}

// Settings is the value of every setting and where it came from.
type Settings struct {
	values map[string]string
	from   map[string]string
	flag   map[string]*string
	file   string // --config
}

func newSettings() *Settings {
	s := &Settings{values: map[string]string{}, from: map[string]string{}, flag: map[string]*string{}}
	for _, x := range settingList {
		s.values[x.Name], s.from[x.Name] = x.Default, "default"
	}
	return s
}

func (s *Settings) flags(fs *flag.FlagSet) {
	fs.StringVar(&s.file, "config", "", "`FILE` with settings (config.yaml in the root's etc folder if it is there)")
	for _, x := range settingList {
		s.flag[x.Name] = new(string)
		fs.Func(x.Name, "`"+x.Value+"` "+x.Doc, func(v string) error {
			*s.flag[x.Name] = v
			return s.set(x, v, "flag --"+x.Name)
		})
		fs.Lookup(x.Name).DefValue = x.Default
	}
}

func (s *Settings) set(x Setting, v, from string) error {
	if x.Check != nil {
		if err := x.Check(v); err != nil {
			return err
		}
	}
	s.values[x.Name], s.from[x.Name] = v, from
	return nil
}

// load reads environment and file, below what the flags said.
func (s *Settings) load() error {
	for _, x := range settingList {
		env := "PROA_" + strings.ToUpper(strings.ReplaceAll(x.Name, "-", "_"))
		if v, ok := os.LookupEnv(env); ok && s.from[x.Name] == "default" {
			if err := s.set(x, v, "environment "+env); err != nil {
				return fmt.Errorf("%s: %w", env, err)
			}
		}
	}
	file, given := s.file, s.file != ""
	if !given {
		p, err := system.PlacesFor(s.Get("root"))
		if err != nil {
			return err
		}
		file = filepath.Join(p.Etc, "config.yaml")
	}
	b, err := os.ReadFile(file)
	if !given && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		return nil // what may not be read is root's: a command that needs it says so itself
	}
	if err != nil {
		return err
	}
	return s.loadFile(file, b)
}

func (s *Settings) loadFile(file string, b []byte) error {
	var m map[string]any
	if err := yaml.UnmarshalStrict(b, &m); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for k, v := range m {
		i := slices.IndexFunc(settingList, func(x Setting) bool { return x.Name == k })
		if i < 0 {
			return fmt.Errorf("%s: unknown setting %q; 'proa config' lists them", file, k)
		}
		if s.from[k] != "default" {
			continue
		}
		if err := s.set(settingList[i], fmt.Sprint(v), "file "+file); err != nil {
			return fmt.Errorf("%s: %s: %w", file, k, err)
		}
	}
	return nil
}

// Get returns the value of a setting.
func (s *Settings) Get(name string) string {
	v, ok := s.values[name]
	if !ok {
		panic("no setting is called " + name)
	}
	return v
}

func nonEmpty(v string) error {
	if v == "" {
		return errors.New("must not be empty")
	}
	return nil
}

func port(v string) error {
	if n, err := strconv.Atoi(v); err != nil || n < 0 || n > 65000 {
		return errors.New("must be a port from 1 to 65000, or 0")
	}
	return nil
}

func address(v string) error {
	if _, err := netip.ParseAddr(v); v != "" && err != nil {
		return errors.New("must be an IP address")
	}
	return nil
}

func cidr(v string) error {
	if v == "" {
		return nil
	}
	if p, err := netip.ParsePrefix(v); err != nil || p != p.Masked() {
		return errors.New("must be an address range such as 10.42.0.0/16")
	}
	return nil
}

func seed(v string) error {
	if _, err := strconv.ParseUint(v, 10, 64); err != nil {
		return errors.New("must be a whole number, 0 or more")
	}
	return nil
}

func portRange(v string) error {
	_, _, err := parsePortRange(v)
	return err
}

func parsePortRange(v string) (from, to int, err error) {
	a, b, ok := strings.Cut(v, "-")
	from, err1 := strconv.Atoi(a)
	to, err2 := strconv.Atoi(b)
	if !ok || err1 != nil || err2 != nil || from < 1 || to < from || to > 65535 {
		return 0, 0, errors.New("must be a range of ports such as 30000-32767")
	}
	return from, to, nil
}

func oneOf(words ...string) func(string) error {
	return func(v string) error {
		if !slices.Contains(words, v) {
			return fmt.Errorf("must be one of %s", strings.Join(words, ", "))
		}
		return nil
	}
}

// Bounds of max-object-size: what every client sends must fit, and the store
// must be able to hold it with what the server adds.
const (
	leastObject = 1 << 20
	mostObject  = 12 << 20
)

func objectSize(v string) error {
	_, err := parseObjectSize(v)
	return err
}

func parseObjectSize(v string) (int64, error) {
	q, err := resource.ParseQuantity(v)
	if err != nil {
		return 0, fmt.Errorf("must be a size such as 3Mi, not %q", v)
	}
	if n := q.Value(); n >= leastObject && n <= mostObject {
		return n, nil
	}
	return 0, fmt.Errorf("must be from 1Mi to 12Mi, not %s", v)
}

// states checks how many earlier states of an object are to be kept.
func states(v string) error {
	if n, err := strconv.Atoi(v); err != nil || n < 0 || n > 1000 {
		return errors.New("must be a number from 0 to 1000")
	}
	return nil
}

func duration(v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return fmt.Errorf("must be a time such as 24h, or 0, not %q", v)
	}
	return nil
}

func historySize(v string) error {
	_, err := parseHistorySize(v)
	return err
}

func parseHistorySize(v string) (int64, error) {
	q, err := resource.ParseQuantity(v)
	if err != nil {
		return 0, fmt.Errorf("must be a size such as 256Mi, not %q", v)
	}
	if n := q.Value(); n >= 1<<20 {
		return n, nil
	}
	return 0, fmt.Errorf("must be at least 1Mi, not %s", v)
}

func positiveSize(v string) error {
	_, err := parseSize(v)
	return err
}

func parseSize(v string) (int64, error) {
	q, err := resource.ParseQuantity(v)
	if err != nil || q.Value() <= 0 {
		return 0, fmt.Errorf("must be a size such as 1Mi, not %q", v)
	}
	return q.Value(), nil
}
