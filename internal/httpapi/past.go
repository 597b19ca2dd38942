package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
)

// pastOptions reads what the query says about what is to be had of the past:
// revision=N, at=TIME (RFC 3339), and of the whole history limit=N and objects=true.
func pastOptions(p *api.Past, q url.Values) (err error) {
	if v := q.Get("revision"); v != "" {
		if p.Revision, err = strconv.ParseInt(v, 10, 64); err != nil || p.Revision <= 0 {
			return apierrors.NewBadRequest(fmt.Sprintf("revision: %q is no revision: it must be a number above 0", v))
		}
	}
	if v := q.Get("at"); v != "" {
		if p.At, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("at: %q is no time such as 2026-01-31T14:05:00Z (RFC 3339)", v))
		}
	}
	if p.Revision != 0 && !p.At.IsZero() {
		return apierrors.NewBadRequest("revision and at exclude each other")
	}
	if v := q.Get("limit"); v != "" {
		if p.Limit, err = strconv.Atoi(v); err != nil || p.Limit < 0 {
			return apierrors.NewBadRequest(fmt.Sprintf("limit: %q is no number of states", v))
		}
	}
	p.Objects = isTrue(q.Encode(), "objects")
	return nil
}

// pastQuery is the inverse of pastOptions.
func pastQuery(p *api.Past, set func(k, v string)) {
	switch {
	case p == nil:
	case p.Revision != 0:
		set("revision", strconv.FormatInt(p.Revision, 10))
	case !p.At.IsZero():
		set("at", p.At.Format(time.RFC3339Nano))
	default:
		if p.Limit > 0 {
			set("limit", strconv.Itoa(p.Limit))
		}
		if p.Objects {
			set("objects", "true")
		}
	}
}

// history writes the history of an object, which has no form but its own, in
// the formats that are made from JSON.
func (x *exchange) history(h *api.History) {
	m, ok := negotiate(x.req, func(m media) bool { return anyMedia(m) && m.typ != api.MediaProtobuf })
	x.media = m
	if !ok {
		x.fail(&apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusNotAcceptable,
			Reason:  metav1.StatusReasonNotAcceptable,
			Message: "only the following media types are accepted: " + join([]string{api.MediaJSON, api.MediaYAML, api.MediaCBOR})}})
		return
	}
	b, err := json.Marshal(h)
	if err != nil {
		x.fail(err)
		return
	}
	x.writeBytes(http.StatusOK, b)
}
