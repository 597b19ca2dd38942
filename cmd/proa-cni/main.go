// Proa-cni is the CNI plugin of Proa: it hands the call that a container
// runtime makes to the node, over the unix socket named in its configuration,
// and prints the answer. It holds no state and takes a few milliseconds.
// Under the name "loopback" it is the plugin for a pod's loopback interface.
package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"proa/internal/overlay/cniwire"
)

// config is the part of the network configuration that the plugin itself reads.
type config struct {
	CNIVersion string `json:"cniVersion"`
	Socket     string `json:"socket"`
}

func main() {
	var c config
	result, err := run(os.Stdin, os.Getenv, &c)
	if err == nil {
		_, _ = os.Stdout.Write(result)
		return
	}
	e := new(cniwire.Error)
	if !errors.As(err, &e) {
		e = &cniwire.Error{Code: cniwire.CodeInternal, Msg: err.Error()}
	}
	if e.CNIVersion = c.CNIVersion; e.CNIVersion == "" {
		e.CNIVersion = cniwire.Versions[0]
	}
	_ = json.NewEncoder(os.Stdout).Encode(e)
	os.Exit(1)
}

// run performs one call and returns what to print.
func run(stdin io.Reader, env func(string) string, c *config) ([]byte, error) {
	q := cniwire.Request{
		Command:     cniwire.Command(env("CNI_COMMAND")),
		ContainerID: env("CNI_CONTAINERID"),
		Netns:       env("CNI_NETNS"),
		IfName:      env("CNI_IFNAME"),
		Args:        env("CNI_ARGS"),
	}
	body, err := io.ReadAll(io.LimitReader(stdin, 1<<20))
	if err != nil {
		return nil, &cniwire.Error{Code: cniwire.CodeIO, Msg: "read the configuration", Details: err.Error()}
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, c); err != nil {
			return nil, &cniwire.Error{Code: cniwire.CodeDecode, Msg: "decode the configuration", Details: err.Error()}
		}
		q.Config = body
	}
	switch q.Command {
	case cniwire.Version:
		return version(c)
	case cniwire.Add, cniwire.Del, cniwire.Check, cniwire.GC, cniwire.Status:
	case "":
		return nil, cniwire.Errorf(cniwire.CodeBadEnvironment, "CNI_COMMAND is not set: a container runtime starts this program")
	default:
		return nil, cniwire.Errorf(cniwire.CodeBadEnvironment, "unknown CNI_COMMAND %q", q.Command)
	}
	if filepath.Base(os.Args[0]) == "loopback" {
		return loopback(&q, c)
	}
	if c.Socket == "" {
		return nil, cniwire.Errorf(cniwire.CodeBadConfig, "the configuration has no \"socket\"")
	}
	result, err := cniwire.Call(c.Socket, &q, 30*time.Second)
	var e *cniwire.Error
	if q.Command == cniwire.Status && errors.As(err, &e) && e.Code == cniwire.CodeTryLater {
		e.Code = cniwire.CodeNotAvailable
	}
	return result, err
}

func version(c *config) ([]byte, error) {
	v := c.CNIVersion
	if v == "" {
		v = cniwire.Versions[len(cniwire.Versions)-1]
	}
	return json.Marshal(struct {
		CNIVersion string   `json:"cniVersion"`
		Supported  []string `json:"supportedVersions"`
	}{v, cniwire.Versions})
}
