package main

import (
	"encoding/json"
	"fmt"
	"net"
	"runtime"

	"golang.org/x/sys/unix"

	"proa/internal/overlay/cniwire"
)

// loopback is the plugin under its other name: containerd before 2.0, and later
// ones unless told otherwise, calls a plugin "loopback" for every pod before
// the pod's network. It sets the interface lo up, and needs nobody for that.
func loopback(q *cniwire.Request, c *config) ([]byte, error) {
	switch q.Command {
	case cniwire.Add, cniwire.Check:
	default:
		return nil, nil // lo goes with its namespace
	}
	if q.Netns == "" {
		return nil, cniwire.Errorf(cniwire.CodeBadEnvironment, "CNI_NETNS is required")
	}
	if err := setUp(q.Netns, "lo"); err != nil {
		return nil, err
	}
	if q.Command == cniwire.Check {
		return nil, nil
	}
	type iface struct {
		Name    string `json:"name"`
		Mac     string `json:"mac"`
		Sandbox string `json:"sandbox"`
	}
	type address struct {
		Address   string `json:"address"`
		Interface int    `json:"interface"`
	}
	return json.Marshal(struct {
		CNIVersion string    `json:"cniVersion"`
		Interfaces []iface   `json:"interfaces"`
		IPs        []address `json:"ips"`
		DNS        struct{}  `json:"dns"`
	}{c.CNIVersion, []iface{{"lo", net.HardwareAddr(make([]byte, 6)).String(), q.Netns}}, []address{{"127.0.0.1/8", 0}, {"::1/128", 0}}, struct{}{}})
}

// setUp sets an interface of another network namespace up. The thread stays
// there, and is not given back: the program ends soon.
func setUp(netns, name string) error {
	runtime.LockOSThread()
	ns, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return cniwire.Errorf(cniwire.CodeUnknown, "open network namespace %s: %v", netns, err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", netns, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket in %s: %w", netns, err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("find %s in %s: %w", name, netns, err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set %s in %s up: %w", name, netns, err)
	}
	return nil
}
