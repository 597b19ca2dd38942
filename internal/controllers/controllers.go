// Package controllers holds the built-in controllers, one file each.
package controllers

import (
	"proa/internal/control"
)

// All is every controller, in no particular order.
func All() []control.Runner {
	return []control.Runner{
		Deployment,
		Job,
		JobOrphans,
		ReplicaSet,
	}
}
