package admin_test

import (
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lastack/lastack/services/admin"
)

// killer counts what it is asked.
type killer struct {
	admin.Source
	asked atomic.Int32
}

func (k *killer) Kill(uint64, string) error {
	k.asked.Add(1)
	return nil
}

// What is asked while everything rests is asked again of the process that takes
// over; without one it is answered that nothing has changed, and if all goes on as
// before it is done.
func TestWhatIsAskedDuringARestIsNotForgotten(t *testing.T) {
	for _, c := range []struct {
		name     string
		end      func(t *testing.T, s *admin.Server, socket string, next *killer)
		old, new int32
		want     string
	}{
		{"upgrade", func(t *testing.T, s *admin.Server, socket string, next *killer) {
			if err := s.Withdraw(false); err != nil {
				t.Fatal(err)
			}
			s.Wake()
			time.Sleep(50 * time.Millisecond) // nobody listens yet
			serve(t, socket, next)
		}, 0, 1, ""},
		{"suspend", func(t *testing.T, s *admin.Server, _ string, _ *killer) {
			if err := s.Withdraw(true); err != nil {
				t.Fatal(err)
			}
			s.Wake()
		}, 0, 0, "the appliance was suspended before it could answer: nothing is changed"},
		{"an upgrade that fails", func(t *testing.T, s *admin.Server, socket string, _ *killer) {
			if err := s.Withdraw(false); err != nil {
				t.Fatal(err)
			}
			if err := s.Return(socket); err != nil {
				t.Fatal(err)
			}
			s.Wake()
		}, 1, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "a.sock")
			old, next := &killer{}, &killer{}
			s := serve(t, socket, old)
			s.Rest()
			said := make(chan error, 1)
			go func() { said <- admin.NewClient(socket).Kill(t.Context(), 7, "rst") }()
			select {
			case err := <-said:
				t.Fatalf("it was answered during the rest: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			c.end(t, s, socket, next)
			got := ""
			if err := <-said; err != nil {
				got = err.Error()
			}
			if got != c.want || old.asked.Load() != c.old || next.asked.Load() != c.new {
				t.Errorf("the answer is %q, want %q; the old process was asked %d times, want %d, the new one %d, want %d",
					got, c.want, old.asked.Load(), c.old, next.asked.Load(), c.new)
			}
		})
	}
}

func serve(t *testing.T, socket string, src admin.Source) *admin.Server {
	t.Helper()
	s, err := admin.Serve(socket, src, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(t.Context()) })
	return s
}
