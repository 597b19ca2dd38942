package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
)

// sandboxImage is the name of the image that holds a pod's namespaces. It is
// served by proa's own registry only, so it names a host that does not exist.
const sandboxImage = "proa.local/pause:1"

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type file struct {
	name string
	mode int64
	body []byte
}

// pauseImage writes the sandbox image as an OCI archive of one layer with one
// file. (A handful of JSON: not worth an image library in this module.)
func (b *builder) pauseImage() (string, error) {
	pause, err := os.ReadFile(filepath.Join(b.dir, "bin", "pause"))
	if err != nil {
		return "", err
	}
	layer, err := tarOf([]file{{"pause", 0o755, pause}})
	if err != nil {
		return "", err
	}
	const oci = "application/vnd.oci.image."
	config := encode(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/pause"}, "User": "65535:65535"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	manifest := encode(map[string]any{
		"schemaVersion": 2, "mediaType": oci + "manifest.v1+json",
		"config": describe(oci+"config.v1+json", config),
		"layers": []descriptor{describe(oci+"layer.v1.tar", layer)},
	})
	top := describe(oci+"manifest.v1+json", manifest)
	top.Annotations = map[string]string{"io.containerd.image.name": sandboxImage, "org.opencontainers.image.ref.name": sandboxImage}
	archive, err := tarOf([]file{
		{"oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{"index.json", 0o644, encode(map[string]any{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": []descriptor{top}})},
		{blob(manifest), 0o644, manifest},
		{blob(config), 0o644, config},
		{blob(layer), 0o644, layer},
	})
	if err != nil {
		return "", err
	}
	to := filepath.Join(b.dir, "images", "pause.tar")
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", err
	}
	return sandboxImage, os.WriteFile(to, archive, 0o644)
}

func describe(mediaType string, body []byte) descriptor {
	return descriptor{MediaType: mediaType, Digest: digest(body), Size: len(body)}
}

func digest(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func blob(body []byte) string { return "blobs/sha256/" + digest(body)[len("sha256:"):] }

// encode never fails on what is given to it here: maps, strings, numbers.
func encode(v map[string]any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body
}

func tarOf(files []file) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if err := w.WriteHeader(header(f.name, f.mode, int64(len(f.body)))); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}
