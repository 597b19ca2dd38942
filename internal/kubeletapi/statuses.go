package kubeletapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// statuses turns a node's plain-text errors into the API's Status.
func statuses(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &statusWriter{ResponseWriter: w}
		h.ServeHTTP(s, r)
		s.finish()
	})
}

// A statusWriter keeps the body of an answer that is an error.
type statusWriter struct {
	http.ResponseWriter
	code int
	body bytes.Buffer
}

// Unwrap lets a ResponseController reach the connection.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *statusWriter) WriteHeader(code int) {
	if s.code != 0 {
		return
	}
	if s.code = code; code < 400 {
		s.ResponseWriter.WriteHeader(code)
	}
}

func (s *statusWriter) Write(b []byte) (int, error) {
	if s.code == 0 {
		s.WriteHeader(http.StatusOK)
	}
	if s.code < 400 {
		return s.ResponseWriter.Write(b)
	}
	if s.body.Len() < 64<<10 {
		s.body.Write(b)
	}
	return len(b), nil
}

// FlushError sends what was written, unless it is an error that is still collected.
func (s *statusWriter) FlushError() error {
	if s.code == 0 || s.code >= 400 {
		return nil
	}
	return http.NewResponseController(s.ResponseWriter).Flush()
}

func (s *statusWriter) finish() {
	if s.code < 400 {
		return
	}
	text := strings.TrimSpace(s.body.String())
	var st metav1.Status
	switch s.code {
	case http.StatusBadRequest:
		st = apierrors.NewBadRequest(text).Status()
	case http.StatusNotFound:
		st = metav1.Status{Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound, Message: text}
	default:
		st = metav1.Status{Status: metav1.StatusFailure, Code: int32(s.code), Reason: metav1.StatusReasonInternalError, Message: text}
	}
	st.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	s.Header().Set("Content-Type", "application/json")
	s.Header().Del("Content-Length")
	s.ResponseWriter.WriteHeader(s.code)
	_ = json.NewEncoder(s.ResponseWriter).Encode(&st)
}
