package core

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/validate"
)

// EventTTL is how long events are kept.
const EventTTL = time.Hour

// Event tells what happened to some object. It is removed after [EventTTL].
var Event = &api.Kind[*corev1.Event]{
	API: "v1", Resource: "events", Scope: api.Namespaced, Short: []string{"ev"},
	Whole: true,
	Columns: []api.Column[*corev1.Event]{
		api.Col("Last Seen", func(e *corev1.Event) string { _, last := eventTimes(e); return last }),
		api.Col("Type", func(e *corev1.Event) string { return e.Type }),
		api.Col("Reason", func(e *corev1.Event) string { return e.Reason }),
		api.Col("Object", eventTarget),
		api.Wide("Subobject", func(e *corev1.Event) string { return e.InvolvedObject.FieldPath }),
		api.Wide("Source", eventSource),
		api.Col("Message", func(e *corev1.Event) string { return strings.TrimSpace(e.Message) }),
		api.Wide("First Seen", func(e *corev1.Event) string { first, _ := eventTimes(e); return first }),
		api.Wide("Count", eventCount),
		eventName,
	},
	Fields: map[string]func(*corev1.Event) string{
		"involvedObject.kind":            func(e *corev1.Event) string { return e.InvolvedObject.Kind },
		"involvedObject.namespace":       func(e *corev1.Event) string { return e.InvolvedObject.Namespace },
		"involvedObject.name":            func(e *corev1.Event) string { return e.InvolvedObject.Name },
		"involvedObject.uid":             func(e *corev1.Event) string { return string(e.InvolvedObject.UID) },
		"involvedObject.apiVersion":      func(e *corev1.Event) string { return e.InvolvedObject.APIVersion },
		"involvedObject.resourceVersion": func(e *corev1.Event) string { return e.InvolvedObject.ResourceVersion },
		"involvedObject.fieldPath":       func(e *corev1.Event) string { return e.InvolvedObject.FieldPath },
		"reason":                         func(e *corev1.Event) string { return e.Reason },
		"reportingComponent":             func(e *corev1.Event) string { return e.ReportingController },
		"source": func(e *corev1.Event) string {
			if e.Source.Component != "" {
				return e.Source.Component
			}
			return e.ReportingController
		},
		"type": func(e *corev1.Event) string { return e.Type },
	},
	Validate:       validateEvent,
	CreateOnUpdate: true,
	TTL:            EventTTL,
}

var eventName = func() api.Column[*corev1.Event] {
	c := column.Name(column.Plain[*corev1.Event])
	c.Wide = true
	return c
}()

func eventTarget(e *corev1.Event) string {
	return fmt.Sprintf("%s/%s", strings.ToLower(e.InvolvedObject.Kind), e.InvolvedObject.Name)
}

func eventSource(e *corev1.Event) string {
	from, host := e.Source.Component, e.Source.Host
	if from == "" {
		from, host = e.ReportingController, e.ReportingInstance
	}
	if host != "" {
		return from + ", " + host
	}
	return from
}

func eventCount(e *corev1.Event) int32 {
	if e.Series != nil {
		return e.Series.Count
	}
	if e.Count == 0 {
		return 1
	}
	return e.Count
}

// eventTimes are the ages of the first and the last occurrence.
func eventTimes(e *corev1.Event) (first, last string) {
	first = api.Age(e.FirstTimestamp)
	if e.FirstTimestamp.IsZero() {
		first = microAge(e.EventTime)
	}
	last = api.Age(e.LastTimestamp)
	if e.LastTimestamp.IsZero() {
		last = first
	}
	if e.Series != nil {
		last = microAge(e.Series.LastObservedTime)
	}
	return first, last
}

func microAge(t metav1.MicroTime) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// These bound the text of events that tell when they happened; lengths in bytes.
const (
	eventShort = 128  // reportingInstance, action, reason
	eventNote  = 1024 // message
)

func validateEvent(e, _ *corev1.Event) field.ErrorList {
	return ValidateEvent(e, "reportingComponent")
}

// ValidateEvent checks what holds for an event in every version. Events of the
// newer style, which have an eventTime, say who reports them; reporter is what
// the version calls that field.
func ValidateEvent(e *corev1.Event, reporter string) (errs field.ErrorList) {
	namespace := field.NewPath("involvedObject", "namespace")
	about, other := e.InvolvedObject.Namespace, false
	if e.EventTime.IsZero() {
		other = e.Namespace != about && !(about == "" && e.Namespace == metav1.NamespaceDefault)
	} else {
		other = about == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem
	}
	if other {
		errs = append(errs, field.Invalid(namespace, about, "does not match event.namespace"))
	}
	if !e.EventTime.IsZero() {
		by := field.NewPath(reporter)
		if e.ReportingController == "" {
			errs = append(errs, field.Required(by, ""))
		}
		errs = append(errs, validate.Qualified(e.ReportingController, by)...)
		errs = append(errs, eventText(e.ReportingInstance, "reportingInstance", eventShort, true)...)
		errs = append(errs, eventText(e.Action, "action", eventShort, true)...)
		errs = append(errs, eventText(e.Reason, "reason", eventShort, true)...)
		errs = append(errs, eventText(e.Message, "message", eventNote, false)...)
	}
	return append(errs, validate.Subdomain(e.Namespace, field.NewPath("namespace"))...)
}

func eventText(v, name string, most int, required bool) (errs field.ErrorList) {
	if v == "" && required {
		errs = append(errs, field.Required(field.NewPath(name), ""))
	}
	if len(v) > most {
		errs = append(errs, field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %v characters", most)))
	}
	return errs
}
