package registry

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Load puts the images of an archive into the registry and returns their
// names in full. It takes what `docker save` writes (old and new) and OCI image
// layouts, as a folder or a tar, plain or under gzip or zstd, with any number
// of images. Names come from RepoTags or from the annotations
// io.containerd.image.name and org.opencontainers.image.ref.name, read as
// docker reads them.
//
// Every digest is checked. Errors: ErrDamaged, ErrFull, the context's, the
// file's. After an error no name has changed that is not whole; images before
// the damaged one may be there.
func (r *Registry) Load(ctx context.Context, path string) ([]string, error) {
	names, err := r.load(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("load images from %s: %w", path, err)
	}
	return names, nil
}

func (r *Registry) load(ctx context.Context, path string) ([]string, error) {
	a, err := openArchive(ctx, path, r.dir)
	if err != nil {
		return nil, err
	}
	defer a.close()
	l := &loader{r: r, a: a, ctx: ctx}
	switch {
	case a.has("index.json"):
		err = l.layout()
	case a.has("manifest.json"):
		err = l.docker()
	default:
		return nil, fmt.Errorf("%w: neither a docker archive (manifest.json) nor an OCI layout (index.json)", ErrDamaged)
	}
	if err == nil && len(l.names) == 0 {
		err = errors.New("it holds no image that has a name: save images by name, not by id")
	}
	sort.Strings(l.names)
	return l.names, err
}

type loader struct {
	r     *Registry
	a     archive
	ctx   context.Context
	names []string
}

// layout loads an OCI image layout. `docker save` of today writes one with a
// manifest.json beside it, which may know names that the index does not.
func (l *loader) layout() error {
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := decode(l, "index.json", &index); err != nil {
		return err
	}
	saved, err := l.savedNames()
	if err != nil {
		return err
	}
	for _, d := range index.Manifests {
		m, err := l.manifest(d)
		if err != nil {
			return err
		}
		for _, name := range namesOf(d, m, saved) {
			if err := l.name(name, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func namesOf(d descriptor, m manifest, saved map[string][]string) []string {
	for _, key := range []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"} {
		if name := d.Annotations[key]; name != "" {
			return []string{name}
		}
	}
	refs, err := references(m.mediaType, m.body)
	if err != nil || !isImage(m.mediaType) {
		return nil
	}
	return saved[refs[0].Digest]
}

// savedNames gives the RepoTags in manifest.json, if any, by config digest.
func (l *loader) savedNames() (map[string][]string, error) {
	byConfig := map[string][]string{}
	if !l.a.has("manifest.json") {
		return byConfig, nil
	}
	var saved []dockerImage
	if err := decode(l, "manifest.json", &saved); err != nil {
		return nil, err
	}
	for _, image := range saved {
		hex := strings.TrimSuffix(image.Config[strings.LastIndexByte(image.Config, '/')+1:], ".json")
		byConfig["sha256:"+hex] = append(byConfig["sha256:"+hex], image.RepoTags...)
	}
	return byConfig, nil
}

// manifest stores the manifest or index that d describes with everything it
// needs. Of an index, images whose manifests the archive leaves out (other
// platforms) are left out here too.
func (l *loader) manifest(d descriptor) (manifest, error) {
	if !digestRE.MatchString(d.Digest) {
		return manifest{}, fmt.Errorf("%w: %q is no sha256 digest", ErrDamaged, d.Digest)
	}
	body, err := l.read(layoutPath(d.Digest), maxManifest)
	if err != nil {
		return manifest{}, err
	}
	if sum(body) != d.Digest {
		return manifest{}, fmt.Errorf("%w: %s has the digest %s", ErrDamaged, layoutPath(d.Digest), sum(body))
	}
	m := manifest{d.Digest, d.MediaType, body}
	if m.mediaType == "" {
		m.mediaType = mediaTypeOf("", body)
	}
	refs, err := references(m.mediaType, body)
	if err != nil {
		return manifest{}, fmt.Errorf("%s: %w", layoutPath(d.Digest), err)
	}
	for _, ref := range refs {
		if err := l.reference(m, ref); err != nil {
			return manifest{}, err
		}
	}
	_, err = l.r.putBlob(bytes.NewReader(body), m.digest)
	return m, err
}

func (l *loader) reference(m manifest, ref descriptor) error {
	if ref.isManifest() {
		if isIndex(m.mediaType) && !l.a.has(layoutPath(ref.Digest)) {
			return nil
		}
		_, err := l.manifest(ref)
		return err
	}
	if len(ref.URLs) > 0 && !l.a.has(layoutPath(ref.Digest)) {
		return nil
	}
	f, err := l.open(layoutPath(ref.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = l.r.putBlob(f, ref.Digest); err != nil {
		return fmt.Errorf("%s: %w", layoutPath(ref.Digest), err)
	}
	return nil
}

func layoutPath(digest string) string {
	return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:")
}

// name lets a name stand for m, and makes every manifest below m one of the
// repository's, so that a puller may ask for it there.
func (l *loader) name(s string, m manifest) error {
	n, err := ParseName(s)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if isIndex(m.mediaType) {
		if err := l.children(n, m); err != nil {
			return err
		}
	}
	if _, err := l.r.putManifest(n, m.mediaType, m.body); err != nil {
		return err
	}
	l.names = append(l.names, n.String())
	return nil
}

func (l *loader) children(n Name, index manifest) error {
	refs, err := references(index.mediaType, index.body)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		m, err := l.r.readManifest(ref.Digest, ref.MediaType)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if isIndex(m.mediaType) {
			if err := l.children(n, m); err != nil {
				return err
			}
		}
		if _, err := l.r.putManifest(Name{Host: n.Host, Repo: n.Repo, Digest: m.digest}, m.mediaType, m.body); err != nil {
			return err
		}
	}
	return nil
}

type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// docker loads what `docker save` wrote before it wrote OCI layouts.
func (l *loader) docker() error {
	var images []dockerImage
	if err := decode(l, "manifest.json", &images); err != nil {
		return err
	}
	for _, image := range images {
		m, err := l.dockerImage(image)
		if err != nil {
			return err
		}
		for _, tag := range image.RepoTags {
			if err := l.name(tag, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *loader) dockerImage(image dockerImage) (manifest, error) {
	config, err := l.read(image.Config, maxManifest)
	if err != nil {
		return manifest{}, err
	}
	var rootfs struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &rootfs); err != nil {
		return manifest{}, fmt.Errorf("%w: %s: %w", ErrDamaged, image.Config, err)
	}
	ids := rootfs.RootFS.DiffIDs
	if len(ids) != len(image.Layers) {
		return manifest{}, fmt.Errorf("%w: %s lists %d layers, manifest.json %d", ErrDamaged, image.Config, len(ids), len(image.Layers))
	}
	out := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{2, ociManifest, descriptor{MediaType: ociConfig, Digest: sum(config), Size: int64(len(config))}, []descriptor{}}
	for i, name := range image.Layers {
		layer, err := l.dockerLayer(name, ids[i])
		if err != nil {
			return manifest{}, err
		}
		out.Layers = append(out.Layers, layer)
	}
	if _, err := l.r.putBlob(bytes.NewReader(config), ""); err != nil {
		return manifest{}, err
	}
	body, err := json.Marshal(out)
	return manifest{sum(body), ociManifest, body}, err
}

// dockerLayer stores a layer as it is and checks that, uncompressed, it is
// what the image's configuration says.
func (l *loader) dockerLayer(name, diffID string) (descriptor, error) {
	diff, kind, err := l.diffID(name)
	if err != nil {
		return descriptor{}, err
	}
	if diff != diffID {
		return descriptor{}, fmt.Errorf("%w: layer %s has the digest %s, not %s", ErrDamaged, name, diff, diffID)
	}
	f, err := l.open(name)
	if err != nil {
		return descriptor{}, err
	}
	defer f.Close()
	count := &counter{r: f}
	digest, err := l.r.putBlob(count, "")
	return descriptor{MediaType: ociLayer + kind, Digest: digest, Size: count.n}, err
}

func (l *loader) diffID(name string) (digest, kind string, err error) {
	f, err := l.open(name)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	plain, kind, err := decompress(f)
	if err != nil {
		return "", "", fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	defer plain.Close()
	digest, err = hashAll(plain)
	if err != nil && kind != "" {
		err = fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	return digest, kind, err
}

func (l *loader) open(name string) (io.ReadCloser, error) {
	if err := l.ctx.Err(); err != nil {
		return nil, err
	}
	return l.a.open(name)
}

func (l *loader) read(name string, limit int64) ([]byte, error) {
	f, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("%w: %s is larger than %d bytes", ErrDamaged, name, limit)
	}
	return body, err
}

func decode[T any](l *loader, name string, into *T) error {
	body, err := l.read(name, maxManifest)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	return nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// decompress undoes gzip or zstd, whichever the first bytes tell; kind is the
// end of an OCI layer's media type.
func decompress(r io.Reader) (plain io.ReadCloser, kind string, err error) {
	head := make([]byte, 4)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, "", err
	}
	all := io.MultiReader(bytes.NewReader(head[:n]), r)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(all)
		return z, "+gzip", err
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(all, zstd.WithDecoderMaxMemory(128<<20))
		if err != nil {
			return nil, "", err
		}
		return z.IOReadCloser(), "+zstd", nil
	}
	return io.NopCloser(all), "", nil
}
