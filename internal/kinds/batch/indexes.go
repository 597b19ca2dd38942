package batch

import (
	"fmt"
	"strconv"
	"strings"
)

// A span is indexes of a job one after another, both ends included.
type span struct{ from, to int32 }

// Spans are indexes in order, as a job's spec and status list them: "1,3-5,7".
type spans []span

func (s spans) total() (n int32) {
	for _, x := range s {
		n += x.to - x.from + 1
	}
	return n
}

// common is the first index that both lists have.
func (s spans) common(other spans) (index int32, ok bool) {
	for i, k := 0, 0; i < len(s) && k < len(other); {
		a, b := s[i], other[k]
		switch {
		case a.to < b.from:
			i++
		case b.to < a.from:
			k++
		default:
			return max(a.from, b.from), true
		}
	}
	return 0, false
}

// parseIndexes reads a list of indexes below completions.
func parseIndexes(text string, completions int32) (list spans, err error) {
	if text == "" {
		return nil, nil
	}
	for _, part := range strings.Split(text, ",") {
		s, err := parseSpan(part, completions)
		if err != nil {
			return nil, err
		}
		if n := len(list); n > 0 && list[n-1].to >= s.from {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", list[n-1].to, s.from)
		}
		list = append(list, s)
	}
	return list, nil
}

func parseSpan(text string, completions int32) (s span, err error) {
	ends := strings.Split(text, "-")
	if len(ends) > 2 {
		return s, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", text)
	}
	if s.from, err = parseIndex(ends[0], completions); err != nil || len(ends) == 1 {
		return span{s.from, s.from}, err
	}
	if s.to, err = parseIndex(ends[1], completions); err == nil && s.from >= s.to {
		err = fmt.Errorf("non-increasing order, previous: %d, current: %d", s.from, s.to)
	}
	return s, err
}

func parseIndex(text string, completions int32) (int32, error) {
	n, err := strconv.Atoi(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("cannot convert string to integer for index: %q", text)
	case n >= int(completions):
		return 0, fmt.Errorf("too large index: %q", text)
	}
	return int32(n), nil
}
