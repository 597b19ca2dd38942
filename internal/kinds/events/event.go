// Package events declares events as the events.k8s.io group serves them: the
// objects of the core group under other field names, and with stricter rules.
package events

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/validate"
)

// Event is [core.Event] in the group events.k8s.io (KEP-383).
var Event = &api.View[*eventsv1.Event, *corev1.Event]{
	API: "events.k8s.io/v1", Of: core.Event,
	To: toCore, From: fromCore,
	Validate: validateEvent,
	Fields: map[string]string{
		"regarding.kind":            "involvedObject.kind",
		"regarding.namespace":       "involvedObject.namespace",
		"regarding.name":            "involvedObject.name",
		"regarding.uid":             "involvedObject.uid",
		"regarding.apiVersion":      "involvedObject.apiVersion",
		"regarding.resourceVersion": "involvedObject.resourceVersion",
		"regarding.fieldPath":       "involvedObject.fieldPath",
		"reason":                    "reason",
		"reportingController":       "reportingComponent",
		"type":                      "type",
	},
}

func toCore(e *eventsv1.Event) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:          e.ObjectMeta,
		InvolvedObject:      e.Regarding,
		Reason:              e.Reason,
		Message:             e.Note,
		Source:              e.DeprecatedSource,
		FirstTimestamp:      e.DeprecatedFirstTimestamp,
		LastTimestamp:       e.DeprecatedLastTimestamp,
		Count:               e.DeprecatedCount,
		Type:                e.Type,
		EventTime:           e.EventTime,
		Series:              (*corev1.EventSeries)(e.Series),
		Action:              e.Action,
		Related:             e.Related,
		ReportingController: e.ReportingController,
		ReportingInstance:   e.ReportingInstance,
	}
}

func fromCore(e *corev1.Event) *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta:               e.ObjectMeta,
		EventTime:                e.EventTime,
		Series:                   (*eventsv1.EventSeries)(e.Series),
		ReportingController:      e.ReportingController,
		ReportingInstance:        e.ReportingInstance,
		Action:                   e.Action,
		Reason:                   e.Reason,
		Regarding:                e.InvolvedObject,
		Related:                  e.Related,
		Note:                     e.Message,
		Type:                     e.Type,
		DeprecatedSource:         e.Source,
		DeprecatedFirstTimestamp: e.FirstTimestamp,
		DeprecatedLastTimestamp:  e.LastTimestamp,
		DeprecatedCount:          e.Count,
	}
}

// validateEvent names fields as the core group does, as Kubernetes does.
func validateEvent(e, old *corev1.Event) field.ErrorList {
	errs := core.ValidateEvent(e, "reportingController")
	if old != nil {
		return append(errs, validateUpdate(e, old)...)
	}
	errs = append(errs, validateSeries(e.Series)...)
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	unset := func(is bool, name string) {
		if is {
			errs = append(errs, field.Invalid(field.NewPath(name), "", "needs to be unset"))
		}
	}
	unset(!e.FirstTimestamp.IsZero(), "firstTimestamp")
	unset(!e.LastTimestamp.IsZero(), "lastTimestamp")
	unset(e.Count != 0, "count")
	unset(e.Source != corev1.EventSource{}, "source")
	return errs
}

// validateUpdate checks that only the series, and metadata, changes.
func validateUpdate(e, old *corev1.Event) (errs field.ErrorList) {
	if !sameSeries(e.Series, old.Series) {
		errs = append(errs, validateSeries(e.Series)...)
	}
	same := func(v, was any, name string) {
		errs = append(errs, validate.Same(v, was, field.NewPath(name))...)
	}
	same(e.InvolvedObject, old.InvolvedObject, "involvedObject")
	same(e.Reason, old.Reason, "reason")
	same(e.Message, old.Message, "message")
	same(e.Source, old.Source, "source")
	same(e.FirstTimestamp, old.FirstTimestamp, "firstTimestamp")
	same(e.LastTimestamp, old.LastTimestamp, "lastTimestamp")
	same(e.Count, old.Count, "count")
	same(e.Type, old.Type, "type")
	if !micro(e.EventTime).Equal(micro(old.EventTime)) { // clients may keep more digits than were stored
		errs = append(errs, field.Invalid(field.NewPath("eventTime"), e.EventTime, apivalidation.FieldImmutableErrorMsg))
	}
	same(e.Action, old.Action, "action")
	same(e.Related, old.Related, "related")
	same(e.ReportingController, old.ReportingController, "reportingController")
	same(e.ReportingInstance, old.ReportingInstance, "reportingInstance")
	return errs
}

func micro(t metav1.MicroTime) time.Time { return t.Truncate(time.Microsecond) }

func sameSeries(a, b *corev1.EventSeries) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Count == b.Count && a.LastObservedTime.Time.Equal(b.LastObservedTime.Time)
}

func validateSeries(s *corev1.EventSeries) (errs field.ErrorList) {
	if s == nil {
		return nil
	}
	path := field.NewPath("series")
	if s.Count < 2 {
		errs = append(errs, field.Invalid(path.Child("count"), "", "should be at least 2"))
	}
	if s.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(path.Child("lastObservedTime"), ""))
	}
	return errs
}
