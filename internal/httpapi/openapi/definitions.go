// Package openapi describes what a server serves, in OpenAPI v3 and v2. The
// schemas come from a compressed file that is generated from the published
// Kubernetes types; nothing is kept unpacked between two calls.
package openapi

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

//go:generate ./generate.sh

//go:embed definitions.zst
var packed []byte

// Digest names the schemas: another digest, other schemas.
var Digest = sync.OnceValue(func() string {
	sum := sha256.Sum256(packed)
	return hex.EncodeToString(sum[:8])
})

// definitions are schemas by name, as JSON.
type definitions struct {
	v3, v2 map[string][]byte // v2 holds those that cannot be derived from v3
}

func unpack() (*definitions, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	text, err := z.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("unpack the OpenAPI definitions: %w", err)
	}
	d := &definitions{v3: make(map[string][]byte, 1300), v2: map[string][]byte{}}
	for line := range bytes.Lines(text) {
		version, rest, _ := bytes.Cut(line, []byte(" "))
		name, schema, ok := bytes.Cut(bytes.TrimSuffix(rest, []byte("\n")), []byte(" "))
		switch {
		case !ok:
			return nil, fmt.Errorf("unpack the OpenAPI definitions: a line of %d bytes", len(line))
		case string(version) == "2":
			d.v2[string(name)] = schema
		default:
			d.v3[string(name)] = schema
		}
	}
	return d, nil
}

var refV3 = []byte(`"$ref":"#/components/schemas/`)

// reach returns the names of all definitions that the given ones lead to,
// themselves included, sorted.
func (d *definitions) reach(from map[string]bool) []string {
	seen := map[string]bool{}
	var names []string
	var visit func(string)
	visit = func(name string) {
		schema, ok := d.v3[name]
		if !ok || seen[name] {
			return
		}
		seen[name] = true
		names = append(names, name)
		for rest := schema; ; {
			_, after, ok := bytes.Cut(rest, refV3)
			if !ok {
				return
			}
			ref, after, _ := bytes.Cut(after, []byte(`"`))
			visit(string(ref))
			rest = after
		}
	}
	for name := range from {
		visit(name)
	}
	slices.Sort(names)
	return names
}

// old is the OpenAPI v2 form of a definition.
func (d *definitions) old(name string) []byte {
	if s, ok := d.v2[name]; ok {
		return swapRefs(s)
	}
	return swapRefs(d.v3[name])
}

// swapRefs turns the references of v3, which stand alone and so are wrapped
// where a description stands beside them, into those of v2.
func swapRefs(s []byte) []byte {
	const wrapped = `"allOf":[{"$ref":"#/components/schemas/`
	out := make([]byte, 0, len(s))
	for {
		before, after, ok := bytes.Cut(s, []byte(wrapped))
		out = append(out, before...)
		if !ok {
			return bytes.ReplaceAll(out, refV3, []byte(`"$ref":"#/definitions/`))
		}
		name, rest, _ := bytes.Cut(after, []byte(`"}]`))
		out = append(append(append(out, `"$ref":"#/definitions/`...), name...), '"')
		s = rest
	}
}
