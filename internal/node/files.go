package node

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/host"
	"proa/internal/node/cri"
	"proa/internal/node/logs"
)

// longestMessage is how much of a termination message the API takes.
const longestMessage = 4096

// terminationMessage is what an ended container left as its last words: what is
// in its message file, or the end of its log if it failed and asks for that.
func (w *worker) terminationMessage(c *container, annotations map[string]string) string {
	dir := w.a.podDir(w.uid)
	if dir != "" && annotations[cri.AnnotationMessagePath] != "" {
		if text, err := host.End(messageFile(dir, c.name, c.attempt), longestMessage); err == nil && len(text) > 0 {
			return string(text)
		}
	}
	if c.code != 0 && annotations[cri.AnnotationMessagePol] == string(corev1.TerminationMessageFallbackToLogsOnError) && c.logPath != "" {
		if text := logs.Tail(c.logPath, 80, 2048); text != "" {
			return text
		}
	}
	return c.message
}

// timedOut says whether a command in a container ran for too long.
func timedOut(err error) bool {
	return status.Code(err) == codes.DeadlineExceeded || err != nil && strings.Contains(err.Error(), "timed out")
}

// removeDirs removes a pod's folder and logs.
func (a *Agent) removeDirs(pod *corev1.Pod) error {
	if a.RootDir == "" {
		return nil
	}
	if dir := a.podDir(pod.UID); dir != "" {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return os.RemoveAll(a.logDir(pod))
}

// sweep takes up the folders of pods that neither the API nor the runtime has:
// their steps are undone and the folders removed.
func (a *Agent) sweep() {
	if a.RootDir == "" {
		return
	}
	entries, err := os.ReadDir(filepath.Join(a.RootDir, "pods"))
	if err != nil {
		return
	}
	for _, e := range entries {
		uid := types.UID(e.Name())
		if a.find(uid) != nil || !e.IsDir() {
			continue
		}
		pod := &corev1.Pod{}
		pod.UID, pod.Name = uid, string(uid)
		a.worker(pod).vanish()
	}
	a.sweepLogs()
}

// sweepLogs removes the logs of pods that are gone.
func (a *Agent) sweepLogs() {
	entries, err := os.ReadDir(filepath.Join(a.RootDir, "logs"))
	if err != nil {
		return
	}
	for _, e := range entries {
		i := strings.LastIndexByte(e.Name(), '_')
		if i > 0 && a.find(types.UID(e.Name()[i+1:])) == nil {
			_ = os.RemoveAll(filepath.Join(a.RootDir, "logs", e.Name()))
		}
	}
}

// Limits of a container's log.
const (
	logSize  = 10 << 20
	logFiles = 5
	logLook  = 10 * time.Second
)

// rotateLogs keeps the logs of running containers within their limits.
func (a *Agent) rotateLogs(ctx context.Context) {
	if a.RootDir == "" || a.Bare {
		return
	}
	for {
		a.sleep(ctx, logLook)
		if ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		all := make([]*worker, 0, len(a.pods))
		for _, w := range a.pods {
			all = append(all, w)
		}
		a.mu.Unlock()
		for _, w := range all {
			for _, c := range w.logged() {
				reopen := func() error { return a.Runtime.ReopenLog(ctx, c.id) }
				if err := logs.Rotate(c.logPath, logSize, logFiles, reopen); err != nil && ctx.Err() == nil {
					a.Log.Warn("cannot rotate a log", "path", c.logPath, "err", err)
				}
			}
		}
	}
}

// logged are the pod's running containers, as last seen.
func (w *worker) logged() (out []*container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		return nil
	}
	for _, c := range w.last.containers {
		if c.state == running && c.logPath != "" {
			out = append(out, c)
		}
	}
	return out
}
