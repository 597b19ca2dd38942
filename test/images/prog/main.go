// Command prog is what runs in the pods of tests: one static program with many
// commands, so that a test needs no shell and no network to say what a
// container shall do. In the image proa-test:1 it is /bin/proa-test, and also
// /bin/fetch and /bin/lookup. (cat, ls, sh and their like are busybox there.)
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// A command is one thing that prog does. Run returns the exit status.
type command struct {
	Name, Args, Short string
	Run               func(ctx context.Context, args []string) (int, error)
}

// commands is all of them. (Set in main: help prints it.)
func commands() []command {
	return []command{
		{"serve", "[-addr :8080] [-name TEXT] [-delay 0s] [-drain 0s]", "HTTP server, see GET /help", serve},
		{"tcp-echo", "ADDR", "answer every connection with what it sends", tcpEcho},
		{"udp-echo", "ADDR", "answer every datagram with itself", udpEcho},
		{"send", "tcp|udp ADDR TEXT", "send a line and print the answer", send},
		{"fetch", "[-n 1] [-timeout 5s] [-method GET] [-data TEXT] URL", "print what a URL answers; status 1 unless 2xx", fetch},
		{"api", "PATH", "print what the API server answers to the pod's service account; status 1 unless 2xx", askAPI},
		{"lookup", "[-type host|a|aaaa|srv|txt|ptr|cname] NAME", "ask the DNS as resolv.conf says, one answer a line", lookup},
		{"sleep", "DURATION", "wait; SIGTERM ends it with status 0", sleep},
		{"trap", "[-for 0s]", "print every signal; end that long after the first SIGTERM", trap},
		{"exit", "N", "end with status N", exit},
		{"crash", "", "panic: status 2 and a trace on stderr", crash},
		{"eat", "MEGABYTES [DURATION]", "hold that much memory", eat},
		{"burn", "DURATION", "use one core", burn},
		{"env", "[NAME]", "print the environment, or one variable", env},
		{"write", "FILE TEXT", "write a file, synced", write},
		{"append", "FILE TEXT", "add a line to a file, synced", appendTo},
		{"read", "FILE", "print a file", read},
		{"log", "N [INTERVAL]", "print N numbered lines to stdout and stderr in turn", logLines},
		{"id", "", "print user, groups, capabilities and hostname", id},
	}
}

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if find(name) == nil && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	c := find(name)
	if c == nil {
		for _, c := range commands() {
			fmt.Fprintf(os.Stderr, "  %-9s %-52s %s\n", c.Name, c.Args, c.Short)
		}
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	status, err := c.Run(ctx, args)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", c.Name, err)
	}
	os.Exit(status)
}

func find(name string) *command {
	for _, c := range commands() {
		if c.Name == name {
			return &c
		}
	}
	return nil
}
