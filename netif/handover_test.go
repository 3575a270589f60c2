package netif

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// handled counts the frames that a census has seen, and how many came twice.
func (c *census) handled() (n, twice int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, times := range c.seen {
		if times > 1 {
			twice++
		}
	}
	return len(c.seen), twice
}

// While an Endpoint rests nothing is handled; what came meanwhile is handled
// afterwards, by it or by the one that has inherited its sockets.
func TestFramesWaitWhileAnEndpointRests(t *testing.T) {
	for _, queues := range []int{1, 3} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) {
			first, second := newCensus(), newCensus()
			r, raw := rawRig(t, EndpointOptions{Queues: queues, Filter: first})
			const each = 300
			next := uint32(0)
			send := func() {
				for range each {
					r.mustSend(raw, numbered(next, uint16(1024+next%64)))
					next++
				}
			}
			send()
			until(t, "the frames are handled", func() bool { n, _ := first.handled(); return n == each })
			for range 3 {
				r.e.Pause()
				r.e.Pause() // twice is once
				before, _ := first.handled()
				send()
				time.Sleep(20 * time.Millisecond)
				if now, _ := first.handled(); now != before {
					t.Fatalf("%d frames were handled in a rest", now-before)
				}
				r.e.Resume()
				r.e.Resume()
				until(t, "what came in the rest is handled", func() bool { n, _ := first.handled(); return n == int(next) })
			}
			send()
			until(t, "what comes afterwards is handled", func() bool { n, _ := first.handled(); return n == int(next) })

			r.e.Pause()
			sockets, err := r.e.Sockets()
			if err != nil || len(sockets) != queues {
				t.Fatalf("%d sockets, %v", len(sockets), err)
			}
			send()
			heir := openOn(t, r.card, EndpointOptions{Filter: second, Inherited: sockets, Paused: true, Queues: 1})
			time.Sleep(20 * time.Millisecond)
			if n, _ := second.handled(); n != 0 {
				t.Errorf("%d frames were handled before Resume", n)
			}
			if err := r.e.Close(); err != nil {
				t.Fatal(err)
			}
			heir.Resume()
			until(t, "what came in the rest is handled by the heir", func() bool { n, _ := second.handled(); return n == each })
			send()
			until(t, "and what comes afterwards", func() bool { n, _ := second.handled(); return n == 2*each })
			if n, twice := first.handled(); n+2*each != int(next) || twice > 0 {
				t.Errorf("the first handled %d of %d frames, %d twice", n, int(next)-2*each, twice)
			}
			if _, twice := second.handled(); twice > 0 {
				t.Errorf("the heir handled %d frames twice", twice)
			}
		})
	}
}

// A connection outlasts rests of its card in the middle of a stream.
func TestAStreamOutlastsRests(t *testing.T) {
	r := newRig(t, wire, EndpointOptions{Queues: 1})
	s := r.streamTo(families[0].ours)
	for range 10 {
		s.advance(1 << 16)
		r.e.Pause()
		time.Sleep(30 * time.Millisecond)
		r.e.Resume()
	}
	s.finish()
}

// What is no socket of the card is refused, and nothing is left open.
func TestOnlySocketsOfTheCardAreInherited(t *testing.T) {
	r, _ := rawRig(t, EndpointOptions{})
	labtest.Wire(t, r.card, "eth1", r.peer, "eth1")
	var other *Endpoint
	r.inCard(func() (err error) {
		other, err = Open("eth1", EndpointOptions{})
		return err
	})
	defer other.Close()
	foreign, err := other.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for want, files := range map[string][]*os.File{"is of another card": foreign, "is no packet socket": {pipe}} {
		err := r.card.Do(func() error {
			e, err := Open("eth0", EndpointOptions{Inherited: files})
			if err == nil {
				err = e.Close()
			}
			return err
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		for _, f := range files {
			if f.Close() == nil {
				t.Error("a file was left open")
			}
		}
	}
}

// The card goes from one process to another without a change on it: a state file
// names who has it.
func TestACardIsAdopted(t *testing.T) {
	t.Parallel()
	r, _ := pair(t)
	dir := t.TempDir()
	r.do(func() {
		before := r.picture("eth0")
		old, err := Claim("eth0", ClaimOptions{StateDir: dir})
		r.must(err)
		claimed := r.picture("eth0")
		disown(t, dir) // as if another process had claimed it
		if _, err := Adopt("eth0", ClaimOptions{StateDir: dir}, 2); err == nil || !strings.Contains(err.Error(), "held by process 1, not by 2") {
			t.Errorf("of the wrong process: %v", err)
		}
		heir, err := Adopt("eth0", ClaimOptions{StateDir: dir}, 1)
		r.must(err)
		if heir.Index() != old.Index() || heir.MAC().String() != old.MAC().String() || heir.Guard() != old.Guard() {
			t.Errorf("adopted %+v, was %+v", heir, old)
		}
		old.Leave()
		r.must(old.Release())
		r.restored("eth0", claimed)
		r.must(heir.Release())
		r.restored("eth0", before)
		if _, err := Adopt("eth0", ClaimOptions{StateDir: dir}, os.Getpid()); err == nil {
			t.Error("a card that nobody has was adopted")
		}
	})
}

// disown makes process 1 the owner of eth0.
func disown(t *testing.T, dir string) {
	t.Helper()
	s, err := loadState(dir, "eth0")
	if err == nil {
		s.Owner.PID = 1
		err = s.save(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
}
