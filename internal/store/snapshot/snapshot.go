package snapshot

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
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
	Sections []string // that were skipped: this proa does not know them
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

// Write writes a snapshot of the newest state of an engine. h needs no format, revision and time:
// they are filled in. If the engine fails on the way, the reason is the last
// thing in the file, and it is no whole snapshot.
func Write(ctx context.Context, w io.Writer, e store.Engine, h Header) error {
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

// raw makes JSON of one of the small values that frames hold.
func raw[T Header | section | end | trailer](v T) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // they hold nothing that has no JSON
	}
	return b
}

// Read checks a snapshot from its first byte to its last and calls visit, if not
// nil, with each record in the order of keys. The value is visit's to keep. Until Read has returned
// without an error nobody knows whether what visit saw is whole.
func Read(in io.Reader, visit func(store.Record) error) (*Summary, error) {
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
func (r *reader) section(s *Summary, head []byte, visit func(store.Record) error) error {
	var name section
	if err := unmarshal(r, frameSection, frameSection, head, &name); err != nil {
		return err
	}
	known := name.Name == Records
	if !known && !name.Optional {
		return fmt.Errorf("the snapshot has a section %q that this proa does not know: use a newer proa", name.Name)
	}
	if !known {
		s.Sections = append(s.Sections, name.Name)
	}
	var held end
	last := ""
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
		rec, err := parseRecord(bytes.Clone(payload))
		if err != nil || kind != frameRecord || rec.Key <= last {
			return r.bad("a record is not as it should be")
		}
		last = rec.Key
		s.count(&rec)
		if visit != nil {
			if err := visit(rec); err != nil {
				return err
			}
		}
	}
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
