package lsm

import (
	"fmt"

	"proa/internal/store"
	"proa/internal/store/past"
)

// past checks that the three spaces of the history agree with each other, and
// with the size that the session believes it has.
func (c *checker) past() error {
	total := int64(0)
	indexed, ordered := map[string][]past.Entry{}, map[store.Revision]string{}
	err := c.each(spaceIndex, func(k, v []byte) error {
		x, err := past.ParseIndex(k, v)
		indexed[string(k[1:])] = x.Entries
		return err
	})
	if err != nil {
		return err
	}
	err = c.each(spaceOrder, func(k, v []byte) error {
		l, err := decodeOrder(k, v)
		ordered[l.rev] = l.key
		return err
	})
	if err != nil {
		return err
	}
	var d decoder
	err = c.each(spacePast, func(k, v []byte) error {
		r, err := d.record(k, v)
		if err != nil {
			return err
		}
		total += int64(len(k) + len(v))
		list := indexed[r.Key]
		if len(list) == 0 {
			return fmt.Errorf("%s at %d is not in the index of the history", r.Key, r.Revision)
		}
		en := list[len(list)-1] // newest first, as the keys are
		indexed[r.Key] = list[:len(list)-1]
		if en.Revision != r.Revision || en.Until != r.until || en.Light != (r.weight == store.Light) || en.Size != int64(len(k)+len(v)) {
			return fmt.Errorf("%s at %d: the index of the history says %+v", r.Key, r.Revision, en)
		}
		if ordered[r.until] != r.Key {
			return fmt.Errorf("%s at %d: the order of the history has %q at %d", r.Key, r.Revision, ordered[r.until], r.until)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for key, list := range indexed {
		if len(list) > 0 {
			return fmt.Errorf("the history's index of %s has %+v, which is not there", key, list)
		}
	}
	if total != c.kept {
		return fmt.Errorf("the history has %d bytes, it says %d", total, c.kept)
	}
	return nil
}
