package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"proa/internal/api"
	"proa/internal/kinds"
)

// handWritten are the virtual kinds whose answer depends on other objects: rows
// by hand show them.
var handWritten = []string{"v1/Binding"}

// names are those that a kind gives its objects, where not any name will do.
var names = map[string]string{"IPAddress": "$ip", "ClusterTrustBundle": "example.com:mine:$id", "Namespace": "$id-x",
	"APIService": "v1beta1.$id.example.com", "CustomResourceDefinition": "things.$id.example.com"}

// specs are what must agree with such a name.
var specs = map[string]map[string]any{"APIService": {"group": "$id.example.com"}, "CustomResourceDefinition": {"group": "$id.example.com"}}

// matrix is one row for each kind and verb, made from a valid object of the kind.
func matrix(t testing.TB, objs objects) *area {
	t.Helper()
	a := &area{name: "kinds", doc: "One row for each kind and verb, made from a valid object"}
	for _, d := range kinds.All {
		r := d.Def()
		id := r.GroupVersion().String() + "/" + r.Kind
		if slices.Contains(handWritten, id) {
			continue
		}
		obj := objs[id]
		if d.Def().Kind == "SelfSubjectReview" { // it has no fields
			obj = []byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
		}
		if obj == nil {
			t.Errorf("internal/kinds/testdata has no valid object of %s", id)
			continue
		}
		rows, err := rowsOf(r, id, obj)
		if err != nil {
			t.Errorf("%s: %v", id, err)
		}
		a.rows = append(a.rows, rows...)
	}
	return a
}

// A cell is one verb's row of the matrix. PATH is the collection, ITEM the
// object, BODY a valid object with a label of the row, MORE what else a
// selection of it must say.
type cell struct {
	verb  string
	title string
	needs func(*api.Resource) bool
	text  string
}

func can(verbs ...api.Verb) func(*api.Resource) bool {
	return func(r *api.Resource) bool {
		for _, v := range verbs {
			if !r.Can(v) {
				return false
			}
		}
		return !r.Virtual
	}
}

var cells = []cell{
	{"create", "is created", can(api.Create), `
POST PATH
  BODY
201
  {apiVersion: GV, kind: KIND, metadata: {name: NAME, uid: <any>, resourceVersion: <any>, creationTimestamp: <any>}}
`},
	{"review", "is answered", func(r *api.Resource) bool { return r.Virtual && r.Can(api.Create) }, `
POST PATH
  BODY
201
  {apiVersion: GV, kind: KIND}
`},
	{"get", "is read", can(api.Create, api.Get), `
POST PATH
  BODY
201
  {metadata: {resourceVersion: <set rv>}}
GET ITEM
200
  {apiVersion: GV, kind: KIND, metadata: {name: NAME, resourceVersion: $rv}}
GET ITEM-x
404 NotFound
`},
	{"list", "is listed", can(api.Create, api.List), `
POST PATH
  BODY
201
  {metadata: {resourceVersion: <set rv>}}
GET PATH?labelSelector=row%3D$id
200
  {apiVersion: GV, kind: LIST, metadata: {resourceVersion: <any>}, items: [{metadata: {name: NAME, resourceVersion: $rv}}]}
`},
	{"watch", "is watched", can(api.Create, api.Watch, api.Patch, api.Delete), `
GET PATH?labelSelector=row%3D$id
200
  {metadata: {resourceVersion: <set rv>}}
WATCH w PATH?labelSelector=row%3D$id&resourceVersion=$rv
POST PATH
  BODY
201
MERGE ITEM
  {metadata: {annotations: {x: z}}}
200
DELETE ITEM
  {gracePeriodSeconds: 0, propagationPolicy: Background}
200
EVENTS w
  - {type: ADDED, object: {apiVersion: GV, kind: KIND, metadata: {name: NAME}}}
  - {type: MODIFIED, object: {apiVersion: GV, kind: KIND, metadata: {annotations: {x: z}}}}
  - {type: GONE, object: {apiVersion: GV, kind: KIND, metadata: {annotations: {x: z}}}}
`},
	{"update", "is replaced", can(api.Create, api.Update), `
POST PATH
  BODY
201
  <set obj>
PUT ITEM
  {like: $obj, metadata: {labels: {more: "1"}}}
200
  {metadata: {labels: {row: $id, more: "1"}}}
PUT ITEM
  {like: $obj, metadata: {labels: {more: "2"}}}
409 Conflict: ~the object has been modified; please apply your changes to the latest version and try again
`},
	{"patch", "takes a merge patch", can(api.Create, api.Patch), `
POST PATH
  BODY
201
MERGE ITEM
  {metadata: {labels: {more: "1", row: null}}}
200
  {metadata: {labels: {more: "1", row: null}}}
`},
	{"patch (strategic)", "takes a strategic merge patch", can(api.Create, api.Patch), `
POST PATH
  BODY
201
STRATEGIC ITEM
  {metadata: {finalizers: [a.example.com/x]}}
200
STRATEGIC ITEM
  {metadata: {finalizers: [a.example.com/y], labels: {row: null}}}
200
  {metadata: {finalizers: [..., a.example.com/x, a.example.com/y], labels: {row: null}}}
`},
	{"patch (JSON)", "takes a JSON patch", can(api.Create, api.Patch), `
POST PATH
  BODY
201
JSONPATCH ITEM
  [{op: test, path: /metadata/labels/row, value: $id}, {op: add, path: /metadata/labels/more, value: "1"}]
200
  {metadata: {labels: {row: $id, more: "1"}}}
`},
	{"apply", "is applied", can(api.Create, api.Patch), `
APPLY ITEM?fieldManager=m
  BODY
201
  {metadata: {resourceVersion: <set rv>, managedFields: [..., {manager: m, operation: Apply}]}}
APPLY ITEM?fieldManager=m
  BODY
200
  {metadata: {resourceVersion: $rv}}
`},
	{"delete", "is deleted", can(api.Create, api.Delete), `
POST PATH
  BODY
201
DELETE ITEM?dryRun=All
200
GET ITEM
200
DELETE ITEM
  {gracePeriodSeconds: 0, propagationPolicy: Background}
200
AFTER
`},
	{"deletecollection", "is deleted as a collection", can(api.Create, api.DeleteCollection, api.List), `
POST PATH
  BODY
201
DELETE PATH?labelSelector=row%3Dnone
200
GET ITEM
200
DELETE PATH?labelSelector=row%3D$id&gracePeriodSeconds=0&propagationPolicy=Background
200
AFTER
`},
	{"status", "keeps its status apart", func(r *api.Resource) bool { return r.HasStatus && !r.Virtual && r.Can(api.Create) }, `
POST PATH
  BODY
201
GET ITEM/status
200
  {apiVersion: GV, kind: KIND, metadata: {name: NAME}}
MERGE ITEM/status
  {metadata: {annotations: {x: z}}}
200
  <set obj>
PUT ITEM/status
  {like: $obj}
200
  {apiVersion: GV, kind: KIND, metadata: {name: NAME}}
`},
	{"table", "is shown as a table", can(api.Create, api.List), `
POST PATH
  BODY
201
TABLE PATH?labelSelector=row%3D$id
200
  {kind: Table, columns: COLUMNS, rows: [<count WIDTH>], objects: [{kind: PartialObjectMetadata, metadata: {name: NAME}}]}
`},
	{"metadata only", "is shown as metadata only", can(api.Create, api.List, api.Get), `
POST PATH
  BODY
201
PARTIAL ITEM
200
  {kind: PartialObjectMetadata, apiVersion: meta.k8s.io/v1, metadata: {name: NAME}, spec: null, status: null}
PARTIAL PATH?labelSelector=row%3D$id
200
  {kind: PartialObjectMetadataList, apiVersion: meta.k8s.io/v1, items: [{metadata: {name: NAME}, spec: null}]}
`},
}

// rowsOf makes the rows of one kind.
func rowsOf(r *api.Resource, id string, obj json.RawMessage) ([]*row, error) {
	name := "$id"
	if n := names[r.Kind]; n != "" {
		name = n
	}
	meta := map[string]any{"name": name, "labels": map[string]any{"row": "$id"}, "namespace": nil}
	if r.Virtual {
		meta = map[string]any{"namespace": nil}
	}
	change := map[string]any{"metadata": meta}
	if s := specs[r.Kind]; s != nil {
		change["spec"] = s
	}
	body, err := objects{id: obj}.with(id, change)
	if err != nil {
		return nil, err
	}
	ns := ""
	if r.Scope == api.Namespaced {
		ns = "$ns"
		moveTo(ns, body)
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	path := r.Path(ns)
	gone, after := "DELETED", "GET ITEM\n404 NotFound"
	switch r.Kind { // these wait until they are empty
	case "Namespace":
		gone, after = "MODIFIED", "GET ITEM\n200\n  {metadata: {deletionTimestamp: <any>}, status: {phase: Terminating}}"
	case "PersistentVolume", "PersistentVolumeClaim": // and these until nobody uses them
		gone, after = "MODIFIED", "GET ITEM\n200\n  {metadata: {deletionTimestamp: <any>}}"
	case "CustomResourceDefinition":
		gone, after = "MODIFIED", "GET ITEM\n200\n  {metadata: {deletionTimestamp: <any>, finalizers: [customresourcecleanup.apiextensions.k8s.io]}}"
	}
	if r.Kind == "CustomResourceDefinition" { // it waits until its objects are gone, too
		gone, after = "MODIFIED", "GET ITEM\n200\n  {metadata: {deletionTimestamp: <any>}}"
	}
	columns := make([]string, len(r.Columns))
	for i, c := range r.Columns {
		columns[i] = c.Name
	}
	cols, err := json.Marshal(columns)
	if err != nil {
		return nil, err
	}
	put := strings.NewReplacer("ITEM", path+"/"+name, "PATH", path, "BODY", string(b), "GV", r.GroupVersion().String(), "KIND", r.Kind,
		"LIST", r.ListKind, "NAME", name, "GONE", gone, "COLUMNS", string(cols), "WIDTH", fmt.Sprint(len(columns)))
	var out []*row
	for _, c := range cells {
		if !c.needs(r) {
			continue
		}
		row, err := parseRow(id+" "+c.title, put.Replace(strings.ReplaceAll(c.text, "AFTER", after)), row{})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.verb, err)
		}
		row.hand = false
		out = append(out, row)
	}
	return out, nil
}

// moveTo puts what an object says of namespaces into the row's.
func moveTo(ns string, v any) {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			if _, is := e.(string); is && k == "namespace" {
				x[k] = ns
			}
			moveTo(ns, e)
		}
	case []any:
		for _, e := range x {
			moveTo(ns, e)
		}
	}
}
