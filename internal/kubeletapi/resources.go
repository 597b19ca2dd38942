package kubeletapi

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Resources is the answer to /metrics/resource, which metrics-server reads: what
// the node and its running containers have used.
type Resources struct {
	Node       Use // without a time if it is not known
	Containers []ContainerUse
}

// Use is what something has used up to a time.
type Use struct {
	Time   time.Time
	CPU    uint64 // nanoseconds of processor time since it began
	Memory uint64 // bytes of its working set
}

// ContainerUse is what one container has used since it began.
type ContainerUse struct {
	Namespace, Pod, Container string

	Began time.Time // tells a container from the one before it by the same name
	Use
}

// A family is one metric of /metrics/resource.
type family struct {
	name, typ, help string // help names by %[1]s what it is of
	value           func(u *Use, began time.Time) float64
	set             func(u *Use, began *time.Time, v float64)
}

var (
	cpuUsed = family{"cpu_usage_seconds_total", "counter", "Processor time that the %[1]s has used, in seconds",
		func(u *Use, _ time.Time) float64 { return float64(u.CPU) / 1e9 },
		func(u *Use, _ *time.Time, v float64) { u.CPU = uint64(v*1e9 + 0.5) }}
	memoryUsed = family{"memory_working_set_bytes", "gauge", "Working set of the %[1]s, in bytes",
		func(u *Use, _ time.Time) float64 { return float64(u.Memory) },
		func(u *Use, _ *time.Time, v float64) { u.Memory = uint64(v) }}
	started = family{"start_time_seconds", "gauge", "When the %[1]s was created, in seconds since 1970",
		func(_ *Use, began time.Time) float64 { return float64(began.UnixNano()) / 1e9 },
		func(_ *Use, began *time.Time, v float64) { *began = time.UnixMilli(int64(v*1e3 + 0.5)) }}
)

// Write writes Prometheus' text format, under the names that kubelets use.
func (r *Resources) Write(w io.Writer) error {
	out := bufio.NewWriter(w)
	begin := func(of string, f *family) {
		fmt.Fprintf(out, "# HELP %[1]s_%[2]s "+f.help+".\n# TYPE %[1]s_%[2]s %[3]s\n", of, f.name, f.typ)
	}
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	for _, f := range []family{cpuUsed, memoryUsed, started} {
		begin("container", &f)
		for i := range r.Containers {
			c := &r.Containers[i]
			fmt.Fprintf(out, "container_%s{container=%q,namespace=%q,pod=%q} %s %d\n", f.name, c.Container, c.Namespace, c.Pod, number(f.value(&c.Use, c.Began)), c.Time.UnixMilli())
		}
	}
	failed := 0
	if r.Node.Time.IsZero() {
		failed = 1
	} else {
		for _, f := range []family{cpuUsed, memoryUsed} {
			begin("node", &f)
			fmt.Fprintf(out, "node_%s %s %d\n", f.name, number(f.value(&r.Node, time.Time{})), r.Node.Time.UnixMilli())
		}
	}
	fmt.Fprintf(out, "# HELP resource_scrape_error 1 if the node could not be measured, else 0.\n# TYPE resource_scrape_error gauge\nresource_scrape_error %d\n", failed)
	return out.Flush()
}

// mostResources is how long an answer may be, in bytes: some thousand containers.
const mostResources = 16 << 20

// ReadResources reads what [Resources.Write] writes, or a kubelet. What has no
// time of its own was measured now. Containers of which a part is missing are
// left out.
func ReadResources(from io.Reader, now time.Time) (*Resources, error) {
	out := &Resources{}
	type known struct {
		at                   int
		cpu, memory, started bool
	}
	by := map[[3]string]*known{}
	var node known
	lines := bufio.NewScanner(io.LimitReader(from, mostResources))
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		s, err := readSample(string(line))
		if err != nil {
			return nil, fmt.Errorf("read metrics of a node: %w", err)
		}
		of, name, _ := strings.Cut(s.name, "_")
		k, use, began := &node, &out.Node, new(time.Time)
		switch of {
		case "node":
		case "container":
			key := [3]string{s.labels["namespace"], s.labels["pod"], s.labels["container"]}
			if k = by[key]; k == nil {
				k = &known{at: len(out.Containers)}
				by[key] = k
				out.Containers = append(out.Containers, ContainerUse{Namespace: key[0], Pod: key[1], Container: key[2]})
			}
			c := &out.Containers[k.at]
			use, began = &c.Use, &c.Began
		default:
			continue
		}
		at := now
		if s.at != 0 {
			at = time.UnixMilli(s.at)
		}
		switch name {
		case cpuUsed.name:
			cpuUsed.set(use, began, s.value)
			use.Time, k.cpu = at, true
		case memoryUsed.name:
			memoryUsed.set(use, began, s.value)
			k.memory = true
		case started.name:
			started.set(use, began, s.value)
			k.started = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read metrics of a node: %w", err)
	}
	if !node.cpu || !node.memory {
		out.Node = Use{}
	}
	whole := out.Containers[:0]
	for _, c := range out.Containers {
		if k := by[[3]string{c.Namespace, c.Pod, c.Container}]; k.cpu && k.memory && k.started {
			whole = append(whole, c)
		}
	}
	out.Containers = whole
	return out, nil
}

// A textSample is one line of Prometheus' text format.
type textSample struct {
	name   string
	labels map[string]string
	value  float64
	at     int64 // milliseconds since 1970; 0 if it does not say
}

func readSample(line string) (s textSample, err error) {
	bad := func() (textSample, error) { return s, fmt.Errorf("%.100q is no sample", line) }
	end := strings.IndexAny(line, "{ \t")
	if end <= 0 {
		return bad()
	}
	s.name = line[:end]
	rest := line[end:]
	if rest[0] == '{' {
		s.labels = map[string]string{}
		for rest = rest[1:]; ; {
			rest = strings.TrimLeft(rest, ", \t")
			if after, ok := strings.CutPrefix(rest, "}"); ok {
				rest = after
				break
			}
			key, value, ok := strings.Cut(rest, "=")
			quoted, err := strconv.QuotedPrefix(value)
			if !ok || err != nil {
				return bad()
			}
			text, err := strconv.Unquote(quoted)
			if err != nil {
				return bad()
			}
			s.labels[strings.TrimSpace(key)], rest = text, value[len(quoted):]
		}
	}
	f := strings.Fields(rest)
	if len(f) == 0 || len(f) > 2 {
		return bad()
	}
	if s.value, err = strconv.ParseFloat(f[0], 64); err != nil || !(s.value >= 0 && s.value < 1<<63) {
		return bad()
	}
	if len(f) == 2 {
		if s.at, err = strconv.ParseInt(f[1], 10, 64); err != nil {
			return bad()
		}
	}
	return s, nil
}
