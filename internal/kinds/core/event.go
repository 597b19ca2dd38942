package core

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
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

// clusterEvents are the namespaces that events about cluster-scoped objects live in.
var clusterEvents = map[string]bool{metav1.NamespaceDefault: true, metav1.NamespaceSystem: true, "": true}

func validateEvent(e, _ *corev1.Event) (errs field.ErrorList) {
	path := field.NewPath("involvedObject", "namespace")
	if e.InvolvedObject.Namespace == "" {
		if !clusterEvents[e.Namespace] {
			errs = append(errs, field.Invalid(path, e.InvolvedObject.Namespace, "does not match event.namespace"))
		}
	} else if e.Namespace != e.InvolvedObject.Namespace {
		errs = append(errs, field.Invalid(path, e.InvolvedObject.Namespace, "does not match event.namespace"))
	}
	for _, msg := range validation.IsDNS1123Subdomain(e.Namespace) {
		errs = append(errs, field.Invalid(field.NewPath("namespace"), e.Namespace, msg))
	}
	return errs
}
