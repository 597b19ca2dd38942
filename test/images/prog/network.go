package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func tcpEcho(ctx context.Context, args []string) (int, error) {
	if len(args) != 1 {
		return 2, errors.New("want ADDR")
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", args[0])
	if err != nil {
		return 1, err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return 0, nil
		}
		if err != nil {
			return 1, err
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // ends when the peer does, however that is
		}()
	}
}

func udpEcho(ctx context.Context, args []string) (int, error) {
	if len(args) != 1 {
		return 2, errors.New("want ADDR")
	}
	c, err := new(net.ListenConfig).ListenPacket(ctx, "udp", args[0])
	if err != nil {
		return 1, err
	}
	context.AfterFunc(ctx, func() { c.Close() })
	buf := make([]byte, 65536)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return 0, nil
		}
		if err == nil {
			_, err = c.WriteTo(buf[:n], from)
		}
		if err != nil {
			return 1, err
		}
	}
}

func send(ctx context.Context, args []string) (int, error) {
	if len(args) != 3 {
		return 2, errors.New("want tcp or udp, ADDR and TEXT")
	}
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, args[0], args[1])
	if err != nil {
		return 1, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return 1, err
	}
	if _, err := fmt.Fprintln(c, args[2]); err != nil {
		return 1, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return 1, err
	}
	fmt.Print(line)
	return 0, nil
}

// fetch asks a URL n times, each over a connection of its own, so that a
// service's balancing shows.
func fetch(ctx context.Context, args []string) (int, error) {
	fs := flag.NewFlagSet("fetch", flag.ContinueOnError)
	n := fs.Int("n", 1, "how often")
	timeout := fs.Duration("timeout", 5*time.Second, "for each")
	method := fs.String("method", "", "GET, or POST with -data")
	data := fs.String("data", "", "body to send")
	if err := fs.Parse(args); err != nil {
		return 2, err
	}
	if fs.NArg() != 1 {
		return 2, errors.New("want one URL")
	}
	if *method == "" {
		*method = http.MethodGet
		if *data != "" {
			*method = http.MethodPost
		}
	}
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	status := 0
	for range *n {
		req, err := http.NewRequestWithContext(ctx, *method, fs.Arg(0), strings.NewReader(*data))
		if err != nil {
			return 2, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return 1, err
		}
		_, err = io.Copy(os.Stdout, resp.Body)
		resp.Body.Close()
		if err != nil {
			return 1, err
		}
		if resp.StatusCode/100 != 2 {
			fmt.Fprintln(os.Stderr, "fetch:", resp.Status)
			status = 1
		}
	}
	return status, nil
}

func lookup(ctx context.Context, args []string) (int, error) {
	fs := flag.NewFlagSet("lookup", flag.ContinueOnError)
	kind := fs.String("type", "host", "kind of record")
	if err := fs.Parse(args); err != nil {
		return 2, err
	}
	if fs.NArg() != 1 {
		return 2, errors.New("want one NAME")
	}
	answers, err := ask(ctx, *kind, fs.Arg(0))
	if err != nil {
		return 1, err
	}
	for _, a := range answers {
		fmt.Println(a)
	}
	return 0, nil
}

func ask(ctx context.Context, kind, name string) (answers []string, err error) {
	r := net.DefaultResolver
	switch kind {
	case "host":
		return r.LookupHost(ctx, name)
	case "a", "aaaa":
		ips, err := r.LookupIP(ctx, map[string]string{"a": "ip4", "aaaa": "ip6"}[kind], name)
		for _, ip := range ips {
			answers = append(answers, ip.String())
		}
		return answers, err
	case "srv":
		_, srvs, err := r.LookupSRV(ctx, "", "", name)
		for _, s := range srvs {
			answers = append(answers, fmt.Sprintf("%d %d %d %s", s.Priority, s.Weight, s.Port, s.Target))
		}
		return answers, err
	case "txt":
		return r.LookupTXT(ctx, name)
	case "ptr":
		return r.LookupAddr(ctx, name)
	case "cname":
		target, err := r.LookupCNAME(ctx, name)
		return []string{target}, err
	}
	return nil, fmt.Errorf("unknown type %q", kind)
}
