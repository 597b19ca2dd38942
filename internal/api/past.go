package api

import (
	"encoding/json"
	"time"
)

// A Past asks, in a get, for what an object was instead of what it is: for one
// of its states if Revision or At is set, and otherwise for its [History]. Whoever
// may get an object may get what it was.
type Past struct {
	Revision int64     // the state that this revision made
	At       time.Time // the state that there was at this time

	Limit   int  // of a History: the newest states, at most; all if 0
	Objects bool // of a History: the states with their objects
}

// List says whether the history is asked for, and not one state.
func (p *Past) List() bool { return p.Revision == 0 && p.At.IsZero() }

// HistoryPath begins the paths of what objects were: an object's own path follows.
const HistoryPath = "/history"

// A History is what became of one object, newest first. What is missing between
// two states was of minor changes.
type History struct {
	Kind       string  `json:"kind"`       // History
	APIVersion string  `json:"apiVersion"` // proa/v1
	Items      []State `json:"items"`
}

// A State is one entry of a History.
type State struct {
	Revision string    `json:"revision"`        // the object's resourceVersion
	Was      string    `json:"was,omitempty"`   // the revision that it had before it was restored from a snapshot
	Until    string    `json:"until,omitempty"` // the revision that ended it; absent from the present one
	Time     time.Time `json:"time"`
	User     string    `json:"user,omitempty"`
	Verb     string    `json:"verb"` // create, update or delete

	// Managers are who says, in the object's managedFields, that they made the change.
	Managers []Manager `json:"managers,omitempty"`
	// Changed is which top-level fields differ from the state before it here; of the
	// metadata, what a client can change. Over a gap the status is left out.
	Changed []string `json:"changed,omitempty"`

	Minor bool `json:"minor,omitempty"` // only the status, or what controllers note, has changed: few of these are kept
	Gap   bool `json:"gap,omitempty"`   // the state before is not kept any more

	Error  string          `json:"error,omitempty"`  // why the object cannot be shown
	Object json.RawMessage `json:"object,omitempty"` // as it is served in the version of the path; absent from a deletion
}

// A Manager is who made a change by which means.
type Manager struct {
	Name        string `json:"name"`
	Operation   string `json:"operation"` // Apply or Update
	Subresource string `json:"subresource,omitempty"`
}
