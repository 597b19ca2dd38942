package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/store"
)

// errModified is the text that clients know a lost race by.
var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

func conflict(res *api.Resource, name string) error {
	return apierrors.NewConflict(res.GroupResource(), name, errModified)
}

// statusError makes a *StatusError of any error.
func (s *Server) statusError(r *api.Request, err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	var invalid *store.InvalidError
	var corrupt *store.CorruptError
	var full *store.FullError
	switch {
	case errors.As(err, &full):
		return insufficientStorage(err.Error())
	case errors.Is(err, store.ErrReadOnly):
		return insufficientStorage(err.Error() + "; delete what is not needed or give the disk more room")
	case errors.Is(err, store.ErrPoisoned):
		return apierrors.NewInternalError(fmt.Errorf("%w; whether this write was made is not known", err))
	case errors.Is(err, store.ErrUnknown):
		return apierrors.NewTimeoutError(fmt.Sprintf("%s of %s: %v", r.Verb, target(r), err), 0)
	case errors.Is(err, store.ErrUnavailable):
		return apierrors.NewServiceUnavailable(err.Error())
	case errors.Is(err, store.ErrClosed), errors.Is(err, errClosed):
		return apierrors.NewServiceUnavailable("the server is shutting down")
	case errors.Is(err, store.ErrCompacted):
		return apierrors.NewResourceExpired(err.Error())
	case errors.As(err, &invalid):
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	case errors.As(err, &corrupt):
		s.log.Error("a damaged record", "error", err)
		return apierrors.NewInternalError(err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError(fmt.Sprintf("%s of %s: %v", r.Verb, target(r), err), 0)
	}
	return apierrors.NewInternalError(err)
}

func insufficientStorage(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: "InsufficientStorage", Message: message,
	}}
}

// tooLarge says that a client knows a newer revision than the server.
func tooLarge(asked, current int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}

func tooOld(asked, oldest int64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", asked, oldest))
}

var listOptions = schema.GroupKind{Group: "meta.k8s.io", Kind: "ListOptions"}
