package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// stream joins s to a runtime's streaming address, over SPDY.
func stream(ctx context.Context, address string, s IO) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("the runtime's streaming address: %w", err)
	}
	x, err := remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, u)
	if err != nil {
		return err
	}
	o := remotecommand.StreamOptions{Stdin: s.Stdin, Stdout: s.Stdout, Tty: s.TTY}
	if !s.TTY {
		o.Stderr = s.Stderr
	}
	if s.Resize != nil {
		o.TerminalSizeQueue = sizes(s.Resize)
	}
	return x.StreamWithContext(ctx, o)
}

type sizes <-chan Size

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &remotecommand.TerminalSize{Width: size.Width, Height: size.Height}
}

// forward joins conn to one port behind a runtime's port-forward address
// (SPDY, portforward.k8s.io: an error stream and a data stream per connection).
func forward(ctx context.Context, address string, port int32, conn io.ReadWriteCloser) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("the runtime's port-forward address: %w", err)
	}
	rt, up, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		return err
	}
	c, _, err := spdy.NewDialer(up, &http.Client{Transport: rt}, http.MethodPost, u).Dial("portforward.k8s.io")
	if err != nil {
		return fmt.Errorf("the runtime's port-forward address: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()

	h := http.Header{}
	h.Set("streamType", "error")
	h.Set("port", strconv.Itoa(int(port)))
	h.Set("requestID", "0")
	errs, err := c.CreateStream(h)
	if err != nil {
		return err
	}
	errs.Close() // this side never writes to it
	h.Set("streamType", "data")
	data, err := c.CreateStream(h)
	if err != nil {
		return err
	}
	return pump(conn, data, errs)
}

// pump copies both ways until the far side ends, and returns what it said went wrong.
func pump(conn io.ReadWriteCloser, data, errs httpstream.Stream) error {
	told := make(chan error, 1)
	go func() {
		text, err := io.ReadAll(errs)
		if err == nil && len(text) > 0 {
			err = errors.New(string(text))
		}
		told <- err
	}()
	go func() {
		_, _ = io.Copy(data, conn)
		data.Close()
	}()
	_, err := io.Copy(conn, data)
	conn.Close()
	if said := <-told; said != nil {
		return said
	}
	return err
}
