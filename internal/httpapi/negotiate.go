package httpapi

import (
	"net/http"
	"strconv"
	"strings"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
)

// A shape is what an object is turned into before it is written.
type shape uint8

const (
	asItself shape = iota
	asTable
	asPartial
	asPartialList
	asGroups // of discovery only: all groups in one document
)

var shapes = map[string]shape{
	"Table": asTable, "PartialObjectMetadata": asPartial, "PartialObjectMetadataList": asPartialList,
	"APIGroupDiscoveryList": asGroups,
}

// A media is what an answer is written as.
type media struct {
	typ     string // one of the api.Media constants
	as      shape
	version string // of the group meta.k8s.io, if as is not itself
	pretty  bool
	stream  bool // asked for by a name that only a watch has
}

// offer says whether a media type can be had.
type offer func(media) bool

func anyMedia(m media) bool { return m.as == asItself && !m.stream }

// mediaOf is a media type without its parameters, in lower case.
func mediaOf(header string) string {
	typ, _, _ := strings.Cut(header, ";")
	return strings.ToLower(strings.TrimSpace(typ))
}

// negotiate chooses what to answer with, by the Accept header (RFC 9110,
// section 12.5.1, with the parameters as, g and v of Kubernetes). Without one,
// and for types that are not to be had while */* is accepted too, it is JSON.
// False means that nothing the client accepts is to be had; the media is JSON then.
func negotiate(req *http.Request, has offer) (media, bool) {
	best, found, bestQ := media{typ: api.MediaJSON}, false, -1.0
	header := strings.Join(req.Header["Accept"], ",")
	if header == "" {
		found = has(best)
	}
	for clause := range strings.SplitSeq(header, ",") {
		m, q, ok := parseClause(clause)
		if ok && q > bestQ && q > 0 && has(m) {
			best, bestQ, found = m, q, true
		}
	}
	best.pretty = pretty(req)
	return best, found
}

func parseClause(clause string) (m media, q float64, ok bool) {
	typ, params, _ := strings.Cut(clause, ";")
	q = 1
	switch strings.ToLower(strings.TrimSpace(typ)) {
	case "*/*", "application/*", api.MediaJSON:
		m.typ = api.MediaJSON
	case api.MediaYAML:
		m.typ = api.MediaYAML
	case api.MediaProtobuf:
		m.typ = api.MediaProtobuf
	case api.MediaCBOR:
		m.typ = api.MediaCBOR
	case cborSequence:
		m.typ, m.stream = api.MediaCBOR, true
	default:
		return m, 0, false
	}
	as, group := "", ""
	for p := range strings.SplitSeq(params, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch k {
		case "as":
			as = v
		case "g":
			group = v
		case "v":
			m.version = v
		case "q":
			if f, err := strconv.ParseFloat(v, 64); err == nil {
				q = f
			}
		}
	}
	if as == "" {
		m.version = ""
		return m, q, true
	}
	m.as, ok = shapes[as]
	if m.as == asGroups {
		return m, q, group == discoveryv2.GroupName && (m.version == "v2" || m.version == "v2beta1")
	}
	return m, q, ok && group == metav1.GroupName && (m.version == "v1" || m.version == "v1beta1")
}

// pretty says whether JSON is to be read by people.
func pretty(req *http.Request) bool {
	if q := req.URL.RawQuery; strings.Contains(q, "pretty=") {
		on, _ := strconv.ParseBool(req.URL.Query().Get("pretty"))
		return on
	}
	a := req.UserAgent()
	return strings.HasPrefix(a, "curl") || strings.HasPrefix(a, "Wget") || strings.HasPrefix(a, "Mozilla/5.0")
}

// negotiate sets what the answer is written as.
func (x *exchange) negotiate(t *target, verb api.Verb) error {
	m, ok := negotiate(x.req, func(m media) bool {
		switch {
		case verb == api.Watch && m.typ == api.MediaYAML, verb != api.Watch && m.stream:
			return false
		case m.as == asGroups:
			return false
		case m.typ == api.MediaProtobuf && (m.as == asTable || m.as == asItself && !t.res.protobuf):
			return false
		case m.as == asPartialList:
			return verb == api.List
		case m.as == asPartial:
			return verb != api.List && t.res.shown()
		case m.as == asTable:
			return t.res.shown() && (t.sub == "" || t.sub == "status")
		}
		return true
	})
	x.media = m
	if !ok {
		x.media.as = asItself
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusNotAcceptable,
			Reason: metav1.StatusReasonNotAcceptable, Message: "only the following media types are accepted: " + join(t.res.medias())}}
	}
	return nil
}

// shown says whether there is anything to show in a table: whether it can be read.
func (r *resource) shown() bool { return !r.Virtual || r.Can(api.Get) }

func (r *resource) medias() []string {
	if r.protobuf {
		return []string{api.MediaJSON, api.MediaYAML, api.MediaProtobuf, api.MediaCBOR}
	}
	return []string{api.MediaJSON, api.MediaYAML, api.MediaCBOR}
}

func join[S ~string](list []S) string {
	out := ""
	for i, s := range list {
		if i > 0 {
			out += ", "
		}
		out += string(s)
	}
	return out
}
