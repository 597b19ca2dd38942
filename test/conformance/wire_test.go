package conformance

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
)

// wire asks over HTTPS.
type wire struct{ w *world }

func (x wire) call(ctx context.Context, q *ask) (*answer, error) {
	user := q.user
	if q.nobody || q.token != "" {
		user = api.User{}
	}
	client, err := x.w.client(user)
	if err != nil {
		return nil, err
	}
	body, err := encoded(x.w, q)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, q.method, x.w.url+q.path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if len(body) == 0 {
		req.Body = nil
	}
	req.Header.Set("User-Agent", "conformance/1")
	if q.typ != "" && len(body) > 0 {
		req.Header.Set("Content-Type", q.typ)
	}
	if q.token != "" {
		req.Header.Set("Authorization", "Bearer "+q.token)
	}
	for _, h := range q.headers {
		if strings.EqualFold(h[0], "Content-Type") {
			continue // as q.typ
		}
		req.Header.Add(h[0], h[1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != "" && x.w.ca == nil {
		resp.Body.Close() // the reference asks to come back, as it does with every client
		time.Sleep(100 * time.Millisecond)
		return x.call(ctx, q)
	}
	a := &answer{code: resp.StatusCode, headers: resp.Header}
	for _, w := range resp.Header.Values("Warning") {
		a.warnings = append(a.warnings, warningText(w))
	}
	if q.watch && resp.StatusCode == http.StatusOK {
		a.events = stream(ctx, resp.Body)
		return a, nil
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(unzipped(resp))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	a.body, err = decoded(resp.Header.Get("Content-Type"), raw)
	return a, err
}

var warningHeader = regexp.MustCompile(`^299 \S+ "(.*)"$`)

// warningText is what a Warning header says (RFC 7234, section 5.5).
func warningText(h string) string {
	if m := warningHeader.FindStringSubmatch(h); m != nil {
		return strings.ReplaceAll(strings.ReplaceAll(m[1], `\"`, `"`), `\\`, `\`)
	}
	return "NOT A WARNING HEADER: " + h
}

func unzipped(resp *http.Response) io.Reader {
	if resp.Header.Get("Content-Encoding") != "gzip" {
		return resp.Body
	}
	z, err := gzip.NewReader(resp.Body)
	if err != nil {
		return resp.Body
	}
	return z
}

// encoded is the body in the form that its type names. Rows write JSON or YAML.
func encoded(w *world, q *ask) ([]byte, error) {
	if len(q.body) == 0 || q.raw {
		return q.body, nil
	}
	typ, _, _ := mime.ParseMediaType(q.typ)
	switch {
	case strings.HasPrefix(typ, "application/cbor"), strings.HasSuffix(typ, "+cbor"):
		var v any
		if err := json.Unmarshal(q.body, &v); err != nil {
			return nil, err
		}
		return cbor.Marshal(v)
	case typ == api.MediaProtobuf:
		return protobuf(w, q.body)
	case strings.Contains(typ, "yaml"):
		return yaml.JSONToYAML(q.body)
	}
	return q.body, nil
}

func protobuf(w *world, body []byte) ([]byte, error) {
	var head metav1.TypeMeta
	if err := json.Unmarshal(body, &head); err != nil {
		return nil, err
	}
	r := w.kind(head.APIVersion, head.Kind)
	if r == nil {
		return nil, fmt.Errorf("a protobuf body must name its kind; there is no %s %s", head.APIVersion, head.Kind)
	}
	obj := r.New()
	if err := json.Unmarshal(body, obj); err != nil {
		return nil, err
	}
	return api.NewItem(r, 0, nil, obj).Protobuf(nil)
}

// decoded is an answer's body as JSON values, or a string if it is no object.
func decoded(contentType string, raw []byte) (any, error) {
	typ, _, _ := mime.ParseMediaType(contentType)
	switch {
	case len(raw) == 0:
		return nil, nil
	case strings.Contains(typ, "cbor"):
		var v any
		if err := cbor.Unmarshal(raw, &v); err != nil {
			return nil, err
		}
		return normal(v)
	case typ == api.MediaProtobuf:
		obj, gvk, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
		if err != nil {
			return string(raw), nil // a document in protobuf, such as OpenAPI
		}
		obj.GetObjectKind().SetGroupVersionKind(*gvk)
		return normal(obj)
	case typ == "application/json", typ == "application/jwk-set+json":
		v, err := jsonValue(raw)
		return v, err
	case strings.Contains(typ, "yaml"):
		var v any
		if err := yaml.Unmarshal(raw, &v); err != nil {
			return nil, err
		}
		return v, nil
	}
	return string(raw), nil
}

func normal(v any) (any, error) {
	if u, ok := v.(*runtime.Unknown); ok {
		return string(u.Raw), nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jsonValue(b)
}

// stream reads the events of a watch.
func stream(ctx context.Context, body io.ReadCloser) <-chan event {
	out := make(chan event)
	go func() {
		defer close(out)
		defer body.Close()
		d := json.NewDecoder(body)
		for {
			var e event
			e.err = d.Decode(&e.body)
			if errors.Is(e.err, io.EOF) || ctx.Err() != nil {
				return
			}
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
			if e.err != nil {
				return
			}
		}
	}()
	return out
}
