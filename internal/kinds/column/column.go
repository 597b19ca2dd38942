// Package column holds the table columns that several kinds show.
package column

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
)

// Name is the Name column of a kind that declares its whole table, showing what f returns.
func Name[T api.Object](f func(T) string) api.Column[T] {
	c := api.Col("Name", f)
	c.Format, c.Doc = "name", metav1.ObjectMeta{}.SwaggerDoc()["name"]
	return c
}

// Plain shows an object's name.
func Plain[T api.Object](o T) string { return o.GetName() }

// Age is the Age column of a kind that declares its whole table.
func Age[T api.Object]() api.Column[T] {
	c := api.Col("Age", func(o T) string { return api.Age(o.GetCreationTimestamp()) })
	c.Doc = metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]
	return c
}

// CreatedAt shows when an object was created, as RFC 3339.
func CreatedAt[T api.Object]() api.Column[T] {
	return api.Column[T]{Name: "Created At", Type: "date", Doc: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
		Cell: func(o T) any { return o.GetCreationTimestamp().UTC().Format(time.RFC3339) }}
}

// Doc returns c with a description.
func Doc[T api.Object](c api.Column[T], doc string) api.Column[T] {
	c.Doc = doc
	return c
}

// Workload is the wide columns of a kind that makes pods: Containers and Images.
func Workload[T api.Object](template func(T) *corev1.PodSpec) []api.Column[T] {
	return []api.Column[T]{
		Doc(api.Wide("Containers", func(o T) string { return names(template(o), func(c *corev1.Container) string { return c.Name }) }),
			"Names of each container in the template."),
		Doc(api.Wide("Images", func(o T) string { return names(template(o), func(c *corev1.Container) string { return c.Image }) }),
			"Images referenced by each container in the template."),
	}
}

// Selector is the wide Selector column.
func Selector[T api.Object](f func(T) *metav1.LabelSelector) api.Column[T] {
	return api.Wide("Selector", func(o T) string { return metav1.FormatLabelSelector(f(o)) })
}

func names(s *corev1.PodSpec, f func(*corev1.Container) string) string {
	out := make([]string, len(s.Containers))
	for i := range s.Containers {
		out[i] = f(&s.Containers[i])
	}
	return strings.Join(out, ",")
}

// Replicas is n, or 0 if it is nil.
func Replicas(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

// Join is a list of words with commas between them.
func Join[S ~string](list []S) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return strings.Join(out, ",")
}
