package owned

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Stored objects may hold entries in a short form, which clients never see:
// the one of the writer who created the object, that says what he does not own
// instead of what he owns. What he owns follows from the object. The short form
// is told by its fieldsType.
const (
	full   = "FieldsV1" // the only type that the API knows, and the longest
	Except = "Except"   // everything but these; absent if there is no exception
)

// Short says whether an entry is in the short form.
func Short(e *metav1.ManagedFieldsEntry) bool { return e.FieldsType != full }

// AnyShort says whether one of them is.
func AnyShort(entries []metav1.ManagedFieldsEntry) bool {
	for i := range entries {
		if Short(&entries[i]) {
			return true
		}
	}
	return false
}

// A Writer is who writes, by which part of the object, and when.
type Writer struct {
	Manager     string
	APIVersion  string
	Subresource string
	Time        metav1.Time
}

func (w *Writer) entry() metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{Manager: w.Manager, Operation: metav1.ManagedFieldsOperationUpdate,
		APIVersion: w.APIVersion, Subresource: w.Subresource, Time: &w.Time}
}

func (w *Writer) wrote(e *metav1.ManagedFieldsEntry) bool {
	return e.Operation == metav1.ManagedFieldsOperationUpdate && e.Manager == w.Manager && e.APIVersion == w.APIVersion && e.Subresource == w.Subresource
}

// Create returns the entries of an object that w makes, but for what is not his.
// What the server adds to it afterwards is nobody's: see [Foreign].
func Create(w Writer, others Set) []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{with(w.entry(), others)}
}

// unowned are the parts of metadata that nobody owns.
var unowned = must(Parse(`{"f:apiVersion":{},"f:kind":{},"f:metadata":{".":{},"f:name":{},"f:namespace":{},"f:creationTimestamp":{},
	"f:selfLink":{},"f:uid":{},"f:clusterName":{},"f:generation":{},"f:managedFields":{},"f:resourceVersion":{}}}`))

// later are the parts that no creator owns, because they come with the deletion.
var later = must(Parse(`{"f:metadata":{"f:deletionTimestamp":{},"f:deletionGracePeriodSeconds":{}}}`))

func must(s Set, err error) Set {
	if err != nil {
		panic(err)
	}
	return s
}

// paths returns the set that an entry holds.
func paths(e *metav1.ManagedFieldsEntry) Set { return parsed(e.FieldsV1.GetRawString()) }

// with returns the entry with another set.
func with(e metav1.ManagedFieldsEntry, s Set) metav1.ManagedFieldsEntry {
	switch {
	case !Short(&e):
		e.FieldsV1 = metav1.NewFieldsV1(s.String())
	case s.Empty():
		e.FieldsType, e.FieldsV1 = "", nil
	default:
		e.FieldsType, e.FieldsV1 = Except, metav1.NewFieldsV1(s.String())
	}
	return e
}

// Update returns the entries after w has changed an object as d says. It
// returns have itself if that changes nothing. old is the object before, as for
// [Full].
func Update(have []metav1.ManagedFieldsEntry, d *Delta, w Writer, old any, status bool) []metav1.ManagedFieldsEntry {
	mine := d.Touched().Minus(unowned)
	lost := mine.Union(d.Gone)
	if lost.Empty() {
		return have
	}
	if slices.ContainsFunc(have, func(e metav1.ManagedFieldsEntry) bool {
		return Short(&e) && w.wrote(&e) && (!d.Changed.Minus(unowned).Empty() || paths(&e).whole())
	}) {
		// What he sets to the zero value is his too, and what he adds to what was
		// excepted as a whole: the short form cannot tell.
		have = Full(have, old, status, Shared{})
	}
	created, gone := mine, d.Gone // what the one who made the object can lose
	if status {
		created, gone = mine.without("f:status"), d.Gone.without("f:status")
	}
	out := make([]metav1.ManagedFieldsEntry, 0, len(have)+1)
	done, same := mine.Empty(), true
	for i := range have {
		e := &have[i]
		self := !done && w.wrote(e)
		if Short(e) && !self && created.Empty() && gone.Empty() {
			out = append(out, *e)
			continue
		}
		s := paths(e)
		var next Set
		switch {
		case Short(e) && self:
			next = s.Minus(d.Gone).Minus(mine)
		case Short(e):
			next = s.Minus(d.Gone).Union(created)
		case self:
			next = s.Minus(lost).Union(mine)
		case !s.Meets(lost):
			out = append(out, *e)
			continue
		default:
			next = s.Minus(lost)
		}
		if !Short(e) && next.Empty() {
			same = false
			continue
		}
		n := with(*e, next)
		if self {
			n.Time, done = &w.Time, true
		}
		same = same && !self && n.FieldsV1.GetRawString() == e.FieldsV1.GetRawString()
		out = append(out, n)
	}
	if !done {
		e := w.entry()
		e.FieldsType = full
		out, same = append(out, with(e, mine)), false
	}
	if same {
		return have
	}
	Arrange(out)
	return out
}

// Foreign returns the entries after a change that belongs to nobody, such as a
// binding or what the server fills in. ok is false if that cannot be told in the
// short form: then the entries are first to be shown in full.
func Foreign(have []metav1.ManagedFieldsEntry, d *Delta, status bool) (out []metav1.ManagedFieldsEntry, ok bool) {
	kept, added := d.Gone.Union(d.Changed.Minus(unowned)).Minus(later), d.Added.Minus(unowned).Minus(later)
	if status {
		kept, added = kept.without("f:status"), added.without("f:status")
	}
	if kept.Empty() && added.Empty() || !AnyShort(have) {
		return have, true
	}
	if !kept.Empty() {
		return have, false // who owned it owns it still, as far as the API shows
	}
	out = slices.Clone(have)
	for i := range out {
		if Short(&out[i]) {
			out[i] = with(out[i], paths(&out[i]).Union(added))
		}
	}
	return out, true
}

// Full returns entries as the API shows them, those of obj, a pointer to a
// struct. status says that the object has a status that creators do not own; shared is
// what the object has in common with others.
func Full(have []metav1.ManagedFieldsEntry, obj any, status bool, shared Shared) []metav1.ManagedFieldsEntry {
	if !AnyShort(have) {
		return have
	}
	out := make([]metav1.ManagedFieldsEntry, 0, len(have))
	for _, e := range have {
		if Short(&e) {
			text := pathsText(obj, shared.of(e.FieldsV1.GetRawString(), status), shared.Key)
			if text == "" {
				continue
			}
			e.FieldsType, e.FieldsV1 = full, metav1.NewFieldsV1(text)
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil
	}
	Arrange(out)
	return out
}

var (
	noCreators       = unowned.Union(later)
	noCreatorsStatus = noCreators.Union(Set{[]elem{{key: "f:status", member: true, all: true}}})
)

// nobodys is what no creator owns.
func nobodys(status bool) Set {
	if status {
		return noCreatorsStatus
	}
	return noCreators
}

// Arrange sorts entries as the API shows them.
func Arrange(list []metav1.ManagedFieldsEntry) {
	seconds := func(e *metav1.ManagedFieldsEntry) int64 {
		if e.Time == nil {
			return 0
		}
		return e.Time.Unix()
	}
	slices.SortStableFunc(list, func(a, b metav1.ManagedFieldsEntry) int {
		return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(seconds(&a), seconds(&b)),
			cmp.Compare(a.Manager, b.Manager), cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Subresource, b.Subresource))
	})
}

// most is how many writers that do not apply are told apart.
const most = 10

const ancient = "ancient-changes"

// Crowded says whether there are more writers than are told apart.
func Crowded(list []metav1.ManagedFieldsEntry) bool {
	n := 0
	for i := range list {
		if list[i].Operation == metav1.ManagedFieldsOperationUpdate {
			n++
		}
	}
	return n > most
}

// Cap merges the oldest entries, in full, into one per version, until there are
// no more writers than are told apart.
func Cap(list []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	Arrange(list)
	type bucket struct {
		first int // in list, until there is an entry of the bucket's own
		made  bool
	}
	by, dead, n := map[string]*bucket{}, map[int]bool{}, 0
	for i := range list {
		if list[i].Operation == metav1.ManagedFieldsOperationUpdate {
			n++
		}
	}
	for i := 0; i < len(list) && n > most; i++ {
		e := &list[i]
		if e.Operation != metav1.ManagedFieldsOperationUpdate {
			continue
		}
		b := by[e.APIVersion]
		if b == nil {
			by[e.APIVersion] = &bucket{first: i, made: e.Manager == ancient && e.Subresource == ""}
			continue
		}
		into := &list[b.first]
		if !b.made {
			into.Manager, into.Subresource, b.made = ancient, "", true
		}
		*into = with(*into, paths(into).Union(paths(e)))
		into.Time = e.Time
		dead[i] = true
		n--
	}
	out := make([]metav1.ManagedFieldsEntry, 0, len(list))
	for i := range list {
		if !dead[i] {
			out = append(out, list[i])
		}
	}
	Arrange(out)
	return out
}

// Valid says whether entries from a client can be kept.
func Valid(list []metav1.ManagedFieldsEntry) bool {
	for i := range list {
		e := &list[i]
		if e.Operation != metav1.ManagedFieldsOperationApply && e.Operation != metav1.ManagedFieldsOperationUpdate ||
			e.APIVersion == "" || e.FieldsType != full {
			return false
		}
		if e.FieldsV1 != nil {
			if set, err := Parse(e.FieldsV1.GetRawString()); err != nil || set.whole() {
				return false
			}
		}
	}
	return len(list) > 0
}
