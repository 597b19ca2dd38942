package apiserver

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	resourceObjects = prometheus.NewDesc("apiserver_resource_objects", "Number of stored objects.", []string{"group", "resource"}, nil)
	storageObjects  = prometheus.NewDesc("apiserver_storage_objects", "Number of stored objects, under the old name.", []string{"resource"}, nil)
)

// Describe and [Server.Collect] make the server a prometheus.Collector of how
// many objects it has.
func (s *Server) Describe(to chan<- *prometheus.Desc) {
	to <- resourceObjects
	to <- storageObjects
}

// Collect counts the objects of each resource.
func (s *Server) Collect(to chan<- prometheus.Metric) {
	snap := s.Snapshot()
	for _, t := range s.all() {
		n := float64(snap.view(t).items.Len())
		gr := t.res.GroupResource()
		to <- prometheus.MustNewConstMetric(resourceObjects, prometheus.GaugeValue, n, gr.Group, gr.Resource)
		to <- prometheus.MustNewConstMetric(storageObjects, prometheus.GaugeValue, n, strings.TrimSuffix(gr.Resource+"."+gr.Group, "."))
	}
}
