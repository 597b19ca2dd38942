package pretend

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Annotation, followed by a container's name, is the pod annotation that holds
// its script. Without one a container runs until it is stopped, and every probe
// succeeds. A script is a list of words, one set for each attempt, the sets
// parted by "|"; the last set serves all further attempts:
//
//	exit=1 after=2s | after=10s exit=0 | run
//
//	run               run until stopped (the default)
//	after=D           end by itself D after the start
//	exit=N            the exit code; without after it ends at once
//	reason=TEXT       the reason of the end, such as OOMKilled
//	message=TEXT      the termination message
//	stop=D            takes D to end once asked to; longer than its grace: killed, 137
//	stopcode=N        the exit code when asked to stop (143)
//	pull=TEXT         pulling the image fails
//	pulltime=D        pulling the image takes D
//	create=TEXT       CreateContainer fails
//	start=TEXT        StartContainer fails, and the container has ended with 128 StartError
//	exec=N            the exit code of every command run in it
//	httpGet=W, tcpSocket=W, grpc=W, execProbe=W   when that kind of check fails; W is
//	                  FROM..TO since the start, either may be missing: "0s..2s", "5s..", ".."
//	log=TEXT          a line that it writes when it starts
//	cpu=Q             the processors that it uses, such as 250m (half of what it requests)
//	memory=Q          the memory that it uses, such as 64Mi (half of its limit, or 16Mi)
//
// Texts are quoted as in Go if they hold spaces.
const Annotation = "pretend.proa.dev/"

type script struct {
	exits            bool
	after            time.Duration
	exit, stopCode   int32
	exec             int32
	reason, message  string
	stop, pullTime   time.Duration
	pull, create     string
	start, log       string
	httpGet, tcp     window
	grpc, execWindow window
	cpu, memory      uint64 // thousandths of a processor, and bytes; 0: as by default
}

// A window is when something is so, since the start of a container.
type window struct {
	set      bool
	from, to time.Duration // to 0: for ever
}

func (w window) holds(age time.Duration) bool {
	return w.set && age >= w.from && (w.to == 0 || age < w.to)
}

// parse reads the part of a script for one attempt.
func parse(text string, attempt uint32) (s script, err error) {
	s.stopCode = 143
	parts := strings.Split(text, "|")
	text = parts[min(int(attempt), len(parts)-1)]
	for {
		text = strings.TrimLeft(text, " \t\n,;")
		if text == "" {
			return s, nil
		}
		var key, value string
		if key, value, text, err = word(text); err != nil {
			return s, err
		}
		if err := s.set(key, value); err != nil {
			return s, fmt.Errorf("pretend script: %s=%s: %w", key, value, err)
		}
	}
}

func word(text string) (key, value, rest string, err error) {
	end := strings.IndexAny(text, "= \t\n,;")
	if end < 0 || text[end] != '=' {
		if end < 0 {
			end = len(text)
		}
		return text[:end], "", text[end:], nil
	}
	key, text = text[:end], text[end+1:]
	if q, err := strconv.QuotedPrefix(text); err == nil {
		value, err = strconv.Unquote(q)
		return key, value, text[len(q):], err
	}
	if end = strings.IndexAny(text, " \t\n,;"); end < 0 {
		end = len(text)
	}
	return key, text[:end], text[end:], nil
}

func (s *script) set(key, value string) (err error) {
	code := func() int32 {
		n, e := strconv.ParseInt(value, 10, 32)
		err = e
		return int32(n)
	}
	dur := func() time.Duration {
		d, e := time.ParseDuration(value)
		err = e
		return d
	}
	switch key {
	case "run":
	case "after":
		s.exits, s.after = true, dur()
	case "exit":
		s.exits, s.exit = true, code()
	case "reason":
		s.reason = value
	case "message":
		s.message = value
	case "stop":
		s.stop = dur()
	case "stopcode":
		s.stopCode = code()
	case "pull":
		s.pull = value
	case "pulltime":
		s.pullTime = dur()
	case "create":
		s.create = value
	case "start":
		s.start = value
	case "exec":
		s.exec = code()
	case "log":
		s.log = value
	case "cpu":
		s.cpu, err = amount(value, (*resource.Quantity).MilliValue)
	case "memory":
		s.memory, err = amount(value, (*resource.Quantity).Value)
	case "httpGet":
		s.httpGet, err = span(value)
	case "tcpSocket":
		s.tcp, err = span(value)
	case "grpc":
		s.grpc, err = span(value)
	case "execProbe":
		s.execWindow, err = span(value)
	default:
		err = fmt.Errorf("unknown word")
	}
	return err
}

func amount(value string, in func(*resource.Quantity) int64) (uint64, error) {
	q, err := resource.ParseQuantity(value)
	if err != nil || q.Sign() < 0 {
		return 0, fmt.Errorf("want a quantity that is not negative")
	}
	return uint64(in(&q)), nil
}

func span(value string) (w window, err error) {
	from, to, ok := strings.Cut(value, "..")
	if !ok {
		return w, fmt.Errorf("want FROM..TO")
	}
	w.set = true
	if from != "" {
		if w.from, err = time.ParseDuration(from); err != nil {
			return w, err
		}
	}
	if to != "" {
		w.to, err = time.ParseDuration(to)
	}
	return w, err
}
