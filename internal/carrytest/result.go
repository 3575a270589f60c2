package carrytest

import (
	"errors"
	"fmt"
	"time"
)

// Result is how one connection went.
type Result struct {
	Schedule        *Schedule
	Slot            Slot
	Client, Backend Seen
	Took            time.Duration
	// Fault is what must not be, nil if nothing is.
	Fault error
}

// Mark is the part of the result that the schedule decides alone, the same for every
// proxy: how many of the bytes of a stream cut by a reset arrive is not in it.
func (r *Result) Mark() string {
	s := r.Schedule
	return fmt.Sprintf("%d: client %s, backend %s", s.Index, mark(r.Client, &s.Backend), mark(r.Backend, &s.Client))
}

func mark(seen Seen, other *Script) string {
	switch {
	case other.resets():
		return "was reset"
	case seen.Left:
		return "reset it"
	}
	return fmt.Sprintf("read %d bytes and FIN", seen.Read)
}

// judge says what must not be.
func (s *Schedule) judge(client, backend Seen) error {
	return errors.Join(s.judgeSide("client", &s.Client, &s.Backend, client), s.judgeSide("backend", &s.Backend, &s.Client, backend))
}

// judgeSide compares what one side saw with what it and the other did.
func (s *Schedule) judgeSide(name string, own, other *Script, seen Seen) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("the "+name+" "+format, args...)
	}
	all := other.total()
	switch {
	case !seen.Present && name == "backend" && mayMiss(other):
		return nil
	case !seen.Present:
		return fail("saw no connection")
	case seen.Err != nil:
		return fail("failed: %w", seen.Err)
	case seen.Read > all:
		return fail("read %d bytes of %d", seen.Read, all)
	case other.resets():
		return cutShort(fail, other, seen)
	case seen.Reset:
		return fail("was reset after it had read %d bytes of %d and written %d of %d", seen.Read, all, seen.Wrote, own.total())
	case own.resets():
		if !seen.Left {
			return fail("came to its end without a reset of its own")
		}
		return nil // it has seen what it waited for
	case !seen.EOF:
		return fail("saw no FIN after %d bytes of %d", seen.Read, all)
	case seen.Read != all:
		return fail("saw FIN after %d bytes of %d", seen.Read, all)
	case seen.Wrote != own.total():
		return fail("wrote %d bytes of %d", seen.Wrote, own.total())
	}
	return nil
}

// cutShort judges who was to be reset by the other. What was read of a stream
// that was cut was compared already.
func cutShort(fail func(string, ...any) error, other *Script, seen Seen) error {
	switch {
	case seen.Reset:
		return nil
	case seen.EOF && other.End.How == Reset:
		return fail("saw FIN after %d bytes where the other had reset the connection", seen.Read)
	}
	return fail("was not reset")
}

// mayMiss reports whether a client may be gone before a proxy has connected the
// backend.
func mayMiss(client *Script) bool {
	if !client.resets() || client.End.Await > 0 {
		return false
	}
	for _, step := range client.Out {
		if step.Await > 0 {
			return false
		}
	}
	return true
}
