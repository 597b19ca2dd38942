package system

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"proa/internal/httpapi"
	"proa/internal/store/lsm"
)

// A scrubbed store reads itself over in the background.
type scrubbed interface {
	Scrubbed() lsm.Scrub
	Health() error
}

// scrubbed returns the store if it is one of those.
func (s *system) scrubbed() (scrubbed, bool) {
	x, ok := s.engine.Engine.(scrubbed)
	return x, ok
}

// scrubChecks are what /readyz asks of the scrub. Damage is no reason for a
// restart.
func (s *system) scrubChecks() []httpapi.Check {
	e, ok := s.scrubbed()
	if !ok {
		return nil
	}
	return []httpapi.Check{{Name: "store-damage", Ready: true, Probe: func(context.Context) error { return e.Health() }}}
}

// scrubMetrics show when the store was last read over, and what was found.
func (s *system) scrubMetrics() []prometheus.Collector {
	e, ok := s.scrubbed()
	if !ok {
		return nil
	}
	counter := func(name, help string, f func(lsm.Scrub) float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return f(e.Scrubbed()) })
	}
	gauge := func(name, help string, f func(lsm.Scrub) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return f(e.Scrubbed()) })
	}
	return []prometheus.Collector{
		counter("proa_store_scrub_passes_total", "How often the scrub has read the whole store since the start.", func(x lsm.Scrub) float64 { return float64(x.Passes) }),
		counter("proa_store_scrub_bytes_total", "Bytes that the scrub has read since the start.", func(x lsm.Scrub) float64 { return float64(x.Bytes) }),
		gauge("proa_store_scrub_last_timestamp_seconds", "When the scrub's last pass ended, as Unix time; 0 if there was none since the start.", func(x lsm.Scrub) float64 {
			if x.Finished.IsZero() {
				return 0
			}
			return float64(x.Finished.UnixMilli()) / 1000
		}),
		gauge("proa_store_damaged", "Damaged places of the store that the scrub has found.", func(x lsm.Scrub) float64 { return float64(len(x.Damaged)) }),
	}
}
