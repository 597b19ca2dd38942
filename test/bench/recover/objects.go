package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"proa/test/bench/measure"
)

// A kind is what a run stores.
type kind struct {
	resource string // plural
	body     string // JSON, without apiVersion; NAME stands for the name
}

const nameMark = "NAME"

// object is the JSON of one object.
func (k kind) object(apiVersion, name string) string {
	return fmt.Sprintf(`{"apiVersion":%q,%s`, apiVersion, strings.Replace(k.body, nameMark, name, 1))
}

// write creates an object on a connection of its own.
func write(ctx context.Context, s measure.Killable, k kind, name string) error {
	c := s.Server().Client()
	defer c.CloseIdleConnections()
	_, err := s.Server().Do(ctx, c, http.MethodPost, s.Path(k.resource), k.object(s.APIVersion(), name))
	return err
}

// byAPI is the number of objects up to which they are made through the API.
const byAPI = 50_000

const sample = "sample"

// fill makes n objects in a server that is ready.
func fill(s contestant, k kind, n int) error {
	if n <= byAPI {
		return create(s, k, n)
	}
	if err := write(context.Background(), s, k, sample); err != nil {
		return err
	}
	return s.lay(k, n)
}

// create makes n objects through the API from 16 clients.
func create(s measure.Killable, k kind, n int) error {
	t, path := s.Server(), s.Path(k.resource)
	clients := make(chan *http.Client, 16)
	for range cap(clients) {
		c := t.Client()
		defer c.CloseIdleConnections()
		clients <- c
	}
	return measure.Each(n, cap(clients), func(i int) error {
		c := <-clients
		defer func() { clients <- c }()
		_, err := t.Do(context.Background(), c, http.MethodPost, path, k.object(s.APIVersion(), measure.ObjectName(i)))
		return err
	})
}

// configMaps are of 1 KB as they are stored.
var configMaps = kind{"configmaps", `"kind":"ConfigMap","metadata":{"name":"` + nameMark + `","namespace":"default","labels":{"app":"shop","tier":"web"}},"data":{"text":"` +
	strings.Repeat("all work and no play makes a dull bench; ", 19) + `"}}`}

// pods are of 2.3 KB, and for a scheduler that is not there, so that they stay as they are.
var pods = kind{"pods", measure.PodBody(nameMark)}
