package snapshot

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"proa/internal/store"
)

// A Summary is what a snapshot holds.
type Summary struct {
	Header
	Size     int64 // of the file, in bytes
	Objects  int64
	Kinds    []Kind   // in the order of their keys
	History  *History // of earlier states; nil if the snapshot has none
	Sections []string // that were skipped: this proa does not know them
}

// A History is what a snapshot holds of earlier states.
type History struct {
	States  int64 // with deletions, without the present ones
	Objects int64 // whose states they are
	Bytes   int64 // of the values
}

// A Visitor is told what a snapshot holds. Both functions may be nil. What they get
// is theirs to keep.
type Visitor struct {
	Record func(store.Record) error
	// Version gets what is known of earlier states, in the order of keys and newest
	// first. If its Until is 0 it is about the state among the records, and has no
	// value: it says what that weighs and what it followed, if not full and nothing.
	Version func(store.Version) error
}

// A Kind is the objects of one resource.
type Kind struct {
	Prefix  string // of their keys: group/resource
	Objects int64
	Bytes   int64 // of the values
}

func (s *Summary) count(r *store.Record) {
	s.Objects++
	name := r.Key
	if parts := strings.SplitN(strings.TrimPrefix(r.Key, "/"), "/", 3); len(parts) == 3 {
		name = parts[0] + "/" + parts[1]
	}
	if n := len(s.Kinds); n == 0 || s.Kinds[n-1].Prefix != name {
		s.Kinds = append(s.Kinds, Kind{Prefix: name})
	}
	k := &s.Kinds[len(s.Kinds)-1]
	k.Objects++
	k.Bytes += int64(len(r.Value))
}

// Write writes a snapshot of the newest state of an engine and, if that is wanted
// and the engine has one, of its history. h needs no format, revision and time: they are
// filled in. If the engine fails on the way, the reason is the last
// thing in the file, and it is no whole snapshot.
func Write(ctx context.Context, w io.Writer, e store.Engine, h Header, history bool) error {
	records, rev, err := e.Range(ctx, "/", "", 0, 0)
	if err != nil {
		return err
	}
	h.Format, h.Revision = format, rev
	if h.Time.IsZero() {
		h.Time = time.Now().UTC()
	}
	x := newWriter(w)
	x.json(frameHeader, raw(h))
	err = x.records(records)
	if past, ok := e.(store.Historian); ok && history && err == nil {
		err = x.history(ctx, past, rev)
	}
	if err != nil {
		x.frame(frameFailed, []byte(err.Error()))
	} else {
		x.json(frameTrailer, raw(trailer{x.sum.Sum(nil)}))
	}
	if x.err == nil {
		x.err = x.w.Flush()
	}
	if err == nil {
		err = x.err
	}
	return err
}

func (w *writer) records(records iter.Seq2[store.Record, error]) error {
	w.json(frameSection, raw(section{Name: Records}))
	var held end
	var payload []byte
	for r, err := range records {
		if err != nil {
			return err
		}
		payload = appendRecord(payload[:0], &r)
		w.frame(frameRecord, payload)
		held.Frames++
		held.Bytes += int64(len(payload))
		if w.err != nil {
			return w.err
		}
	}
	w.json(frameEnd, raw(held))
	return nil
}

// history writes the section of earlier states, as of a revision.
func (w *writer) history(ctx context.Context, e store.Historian, at store.Revision) error {
	versions, err := e.Past(ctx, at)
	if errors.Is(err, store.ErrNoHistory) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the history: %w", err)
	}
	w.json(frameSection, raw(section{Name: Past, Optional: true}))
	var held end
	var payload []byte
	for v, err := range versions {
		var corrupt *store.CorruptError
		switch {
		case errors.As(err, &corrupt) && corrupt.Revision > 0:
			continue // lost, as it is where it comes from
		case err != nil:
			return fmt.Errorf("the history: %w", err)
		case v.Key < "/", v.Until == 0 && v.Prev == store.Absent && v.Weight == store.Full:
			continue // no object's, or what everything is unless it is said otherwise
		}
		payload = appendVersion(payload[:0], &v)
		w.frame(frameVersion, payload)
		held.Frames++
		held.Bytes += int64(len(payload))
		if w.err != nil {
			return w.err
		}
	}
	w.json(frameEnd, raw(held))
	return nil
}

// raw makes JSON of one of the small values that frames hold.
func raw[T Header | section | end | trailer](v T) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // they hold nothing that has no JSON
	}
	return b
}

// Read checks a snapshot from its first byte to its last and tells the visitor what
// is in it: each record in the order of keys, and then each version of the history. Until Read has
// returned without an error nobody knows whether what the visitor saw is whole.
func Read(in io.Reader, visit Visitor) (*Summary, error) {
	r := &reader{r: bufio.NewReaderSize(in, 32<<10), sum: sha256.New()}
	b, err := r.take(len(magic))
	if err != nil || string(b) != magic {
		return nil, &DamageError{0, "it does not begin like a snapshot of proa"}
	}
	r.sum.Write(b)
	s := &Summary{}
	kind, payload, _, err := r.frame()
	if err != nil {
		return nil, err
	}
	if err := unmarshal(r, kind, frameHeader, payload, &s.Header); err != nil {
		return nil, err
	}
	if s.Format != format {
		return nil, fmt.Errorf("the snapshot has the format %d, and this proa knows %d: use a newer proa", s.Format, format)
	}
	for {
		kind, payload, before, err := r.frame()
		if err != nil {
			return s, err
		}
		switch kind {
		case frameSection:
			if err := r.section(s, payload, visit); err != nil {
				return s, err
			}
		case frameFailed:
			return s, &FailedError{string(payload)}
		case frameTrailer:
			return s, r.finish(s, payload, before)
		default:
			return s, r.bad(fmt.Sprintf("a frame of the kind %q is out of place", kind))
		}
	}
}

func (r *reader) finish(s *Summary, payload, before []byte) error {
	var t trailer
	if err := unmarshal(r, frameTrailer, frameTrailer, payload, &t); err != nil {
		return err
	}
	if !bytes.Equal(t.SHA256, before) {
		return r.bad("the checksum over the whole does not match")
	}
	if _, err := r.r.ReadByte(); err != io.EOF {
		return r.bad("something follows the end")
	}
	s.Size = r.at
	return nil
}

// section reads one section to its end.
func (r *reader) section(s *Summary, head []byte, visit Visitor) error {
	var name section
	if err := unmarshal(r, frameSection, frameSection, head, &name); err != nil {
		return err
	}
	known := name.Name == Records || name.Name == Past
	if !known && !name.Optional {
		return fmt.Errorf("the snapshot has a section %q that this proa does not know: use a newer proa", name.Name)
	}
	if !known {
		s.Sections = append(s.Sections, name.Name)
	}
	if name.Name == Past {
		if s.History != nil {
			return r.bad("there are two histories")
		}
		s.History = &History{}
	}
	var held end
	var content content
	for {
		kind, payload, _, err := r.frame()
		if err != nil {
			return err
		}
		switch {
		case kind == frameEnd:
			var want end
			if err := unmarshal(r, kind, frameEnd, payload, &want); err != nil {
				return err
			}
			if want != held {
				return r.bad(fmt.Sprintf("the section %q holds %d frames instead of %d", name.Name, held.Frames, want.Frames))
			}
			return nil
		case kind == frameFailed:
			return &FailedError{string(payload)}
		}
		held.Frames++
		held.Bytes += int64(len(payload))
		if !known {
			continue
		}
		if name.Name == Past {
			err = content.version(s, kind, payload, visit.Version)
		} else {
			err = content.record(s, kind, payload, visit.Record)
		}
		if errors.Is(err, errContent) {
			return r.bad(err.Error())
		}
		if err != nil {
			return err
		}
	}
}

// content is what of a section comes before a frame.
type content struct {
	key     string
	below   store.Revision // the next version of key is below it
	counted bool           // key is among the objects with a history
}

var errContent = errors.New("is not as it should be")

func (c *content) record(s *Summary, kind byte, payload []byte, visit func(store.Record) error) error {
	rec, err := parseRecord(bytes.Clone(payload))
	if err != nil || kind != frameRecord || rec.Key <= c.key {
		return fmt.Errorf("a record %w", errContent)
	}
	c.key = rec.Key
	s.count(&rec)
	if visit == nil {
		return nil
	}
	return visit(rec)
}

func (c *content) version(s *Summary, kind byte, payload []byte, visit func(store.Version) error) error {
	v, err := parseVersion(bytes.Clone(payload))
	switch {
	case err != nil, kind != frameVersion, v.Key < c.key, v.Revision > s.Revision, v.Until > s.Revision,
		v.Key == c.key && (v.Revision >= c.below || v.Until == 0):
		return fmt.Errorf("a version %w", errContent)
	}
	if v.Key != c.key {
		c.key, c.counted = v.Key, false
	}
	c.below = v.Revision
	if v.Until != 0 {
		if !c.counted {
			s.History.Objects++
		}
		c.counted = true
		s.History.States++
		s.History.Bytes += int64(len(v.Value))
	}
	if visit == nil {
		return nil
	}
	return visit(v)
}

func unmarshal[T Header | section | end | trailer](r *reader, kind, want byte, payload []byte, into *T) error {
	if kind != want {
		return r.bad(fmt.Sprintf("a frame of the kind %q is where %q should be", kind, want))
	}
	if err := json.Unmarshal(payload, into); err != nil {
		return r.bad(err.Error())
	}
	return nil
}
