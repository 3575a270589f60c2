package main

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/carrytest"
)

// carrySettings are of the environment variable APPLIANCE_CARRY, as in
// "seed=7 only=123 forwarding=splice times=20".
type carrySettings struct {
	seed       uint64
	count      int // connections of each carrier
	only       int // the one connection to play, -1 for all
	times      int // each
	patience   int // seconds for one connection, 0 for the usual
	loss       int // the most that a wire loses, in percent
	forwarding []string
}

const carryVariable = "APPLIANCE_CARRY"

// carryWish reads them.
func carryWish(t testing.TB) carrySettings {
	t.Helper()
	s := carrySettings{seed: 1, count: 240, only: -1, times: 1, loss: 2}
	switch {
	case os.Getenv("APPLIANCE_SOAK") != "":
		s.count, s.loss = 10_000, 10
	case testing.Short():
		s.count = 120
	}
	numbers := map[string]func(int){
		"seed": func(n int) { s.seed = uint64(n) }, "count": func(n int) { s.count = n },
		"only": func(n int) { s.only = n }, "times": func(n int) { s.times = n },
		"patience": func(n int) { s.patience = n }, "loss": func(n int) { s.loss = n },
	}
	for _, word := range strings.Fields(os.Getenv(carryVariable)) {
		key, value, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(value)
		switch set := numbers[key]; {
		case key == "forwarding":
			s.forwarding = strings.Split(value, ",")
		case set == nil || err != nil:
			t.Fatalf("%s: %q is not seed, count, only, times, patience, loss or forwarding with a value", carryVariable, word)
		default:
			set(n)
		}
	}
	if s.forwarding == nil {
		s.forwarding = forwardings(t)
	}
	return s
}

// forwardings are the ways to forward that this version knows.
func forwardings(t testing.TB) []string {
	t.Helper()
	var known []string
	for _, f := range []string{"relay", "splice", "direct"} {
		text := interfacesYAML + `services: {s: {type: proxy, listen: "wan0:1", backends: ["10.0.0.21:1"], forwarding: ` + f + "}}\n"
		if _, err := config.Parse("test", []byte(text)); err == nil {
			known = append(known, f)
		} else if f == "relay" || !strings.Contains(err.Error(), "not in this version") {
			t.Fatal(err)
		}
	}
	return known
}

// perCrossing is how many connections one appliance carries before the next
// seed makes another network.
const perCrossing = 1000

// Kernel peers with all kinds of manners on wires with all kinds of faults write,
// pause, stall, finish and reset by seeded schedules, and see of each other
// through the appliance what they must, whatever carries their bytes.
func TestEveryCarrierDoesWhatIsScheduled(t *testing.T) {
	s := carryWish(t)
	marks := make(map[string][]string)
	var mu sync.Mutex
	t.Run("by", func(t *testing.T) {
		for _, f := range s.forwarding {
			t.Run(f, func(t *testing.T) {
				if s.count <= perCrossing {
					t.Parallel() // it mostly waits
				}
				got := playCrossings(t, s, f)
				t.Logf("%d connections, results %x", len(got), sha256.Sum256([]byte(strings.Join(got, "\n"))))
				mu.Lock()
				defer mu.Unlock()
				marks[f] = got
			})
		}
	})
	for _, f := range s.forwarding[1:] {
		compareMarks(t, f, marks[f], s.forwarding[0], marks[s.forwarding[0]])
	}
}

// playCrossings plays all connections, a seed after the other.
func playCrossings(t *testing.T, s carrySettings, forwarding string) (marks []string) {
	t.Helper()
	for first := 0; first < s.count; first += perCrossing {
		seed := s.seed + uint64(first/perCrossing)
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			marks = append(marks, playCrossing(t, s, seed, min(perCrossing, s.count-first), forwarding)...)
		})
	}
	return marks
}

func compareMarks(t *testing.T, name string, got []string, other string, want []string) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Errorf("%s: got %q, with %s it was %q", name, got[i], other, want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: got %d results, with %s there were %d", name, len(got), other, len(want))
	}
}

// playCrossing plays n connections of a seed and returns their marks in order.
func playCrossing(t *testing.T, s carrySettings, seed uint64, n int, forwarding string) []string {
	t.Helper()
	abreast := max(1, min(10, n/60))
	c := newCrossing(t, seed, forwarding, abreast, s.loss)
	for _, e := range c.ends {
		t.Logf("%s: %v", e.card, e.manner)
	}
	if s.only >= 0 {
		c.capture()
	}
	c.process = c.start()
	var schedules []*carrytest.Schedule
	for i := range n {
		for range s.times {
			if s.only < 0 || s.only == i {
				schedules = append(schedules, carrytest.New(seed, i, c.limits))
			}
		}
	}
	began := time.Now()
	results := make(map[int]string)
	slowest := new(carrytest.Result)
	st := &carrytest.Stage{Lanes: c.lanes, Patience: time.Duration(s.patience) * time.Second}
	err := st.Play(t.Context(), schedules, func(r *carrytest.Result) {
		results[r.Schedule.Index] = r.Mark()
		if r.Took >= slowest.Took {
			slowest = r
		}
		if r.Fault != nil {
			t.Errorf("%v\n%v\nthe client %+v\nthe backend %+v\nthe appliance remembers:%s\nto repeat it: %s='seed=%d count=%d loss=%d only=%d forwarding=%s times=20' go test ./cmd/appliance -v -run EveryCarrier",
				r.Schedule, r.Fault, r.Client, r.Backend, c.ledger(r.Slot)+c.segments(r), carryVariable, seed, n, s.loss, r.Schedule.Index, forwarding)
		}
	})
	if err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	c.forgets()
	if count := c.carriers(); s.only < 0 && forwarding != "relay" && count[forwarding] == 0 {
		t.Errorf("no connection was carried by %s: %v", forwarding, count)
	}
	t.Logf("seed %d: %d connections in %v, the slowest (%d) took %v, carried by %v, %d times gVisor had no timer running", seed, len(schedules),
		time.Since(began).Round(time.Millisecond), slowest.Schedule.Index, slowest.Took.Round(time.Millisecond), c.carriers(), c.stalls())
	c.process.stop()
	if text := c.process.log.String(); strings.Contains(text, " ERR ") {
		t.Error("the appliance has logged errors")
	}
	return inOrder(results)
}

// forgets wants that nothing is left of peers that are gone.
func (c *crossing) forgets() {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		rows, err := c.admin.Conns(c.t.Context())
		if err == nil && len(rows) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Errorf("%d connections are left of peers that are gone, %v: %s", len(rows), err, asJSON(rows))
			return
		}
	}
}

func inOrder(results map[int]string) []string {
	var marks []string
	for _, i := range slices.SortedFunc(maps.Keys(results), cmp.Compare) {
		marks = append(marks, results[i])
	}
	return marks
}
