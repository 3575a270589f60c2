package netif

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// openFiles are the descriptors of this process and what they are.
func openFiles(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		// One of them is the directory that was just read.
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasSuffix(target, "/fd") {
			found = append(found, e.Name()+" "+target)
		}
	}
	slices.Sort(found)
	return found
}

// Not parallel: no other test may open or start anything meanwhile.
func TestCloseLeavesNothing(t *testing.T) {
	peer, card := labtest.Host(t, "peer"), labtest.Host(t, "card")
	wire(t, peer, card)
	cycle := func(name string, queues int) {
		t.Helper()
		err := card.Do(func() error {
			e, err := Open(name, EndpointOptions{Queues: queues})
			if err != nil {
				return err
			}
			e.Port(testVLAN)
			return e.Close()
		})
		if (err == nil) != (name == "eth0") {
			t.Errorf("open and close %s: %v", name, err)
		}
	}
	cycle("eth0", 1) // the runtime's poller keeps files of its own
	before, running := openFiles(t), goleak.IgnoreCurrent()
	for name, queues := range map[string]int{"eth0": 1, "nothing0": 1, "lo": 4} {
		t.Run(fmt.Sprint(name, " with ", queues), func(t *testing.T) { cycle(name, queues) })
	}
	cycle("eth0", 4)
	// A card that is replaced leaves nothing of the old one.
	err := card.Do(func() error {
		e, err := Open("eth0", EndpointOptions{Queues: 2})
		if err != nil {
			return err
		}
		if err := card.RemoveLink("eth0"); err != nil {
			return err
		}
		until(t, "the card is gone", func() bool { return !e.Up() })
		if err := lab.Wire(peer, "eth0", card, "eth0"); err != nil {
			return err
		}
		until(t, "the card is back", e.Up)
		return e.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := goleak.Find(running); err != nil {
		t.Error(err)
	}
	// The netlink library closes its socket in a goroutine, which has ended now.
	if after := openFiles(t); !slices.Equal(after, before) {
		t.Errorf("open before:\n%s\nand after:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}
