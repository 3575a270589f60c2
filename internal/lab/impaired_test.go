package lab_test

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

func TestPerfectImpairedLinkCarriesAWordBothWays(t *testing.T) {
	a, b, _ := impairedPair(t, lab.Impairment{})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { sayHello(t, a, b, f.b) })
	}
}

func TestKernelsExchangeMegabytesOverABadLink(t *testing.T) {
	size := int64(8 << 20)
	if testing.Short() {
		size = 1 << 20
	}
	a, b, link := impairedPair(t, lab.Impairment{
		Loss: 0.02, Delay: 10 * time.Millisecond, Jitter: time.Millisecond,
		Reorder: 0.01, Duplicate: 0.005, Corrupt: 0.001, Seed: 1,
	})
	up, down := lab.Blob{Seed: 1, Size: size}, lab.Blob{Seed: 2, Size: size + 12345}
	t.Run("both", func(t *testing.T) {
		for _, f := range families {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				s := labtest.BulkServer(t, b, net.JoinHostPort(f.b, "0"), down, up)
				took, err := lab.Bulk(limit(t), a, s.Addr(), up, down)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%d bytes each way in %v", size, took)
			})
		}
	})
	st := link.Stats().AToB
	if st.Lost == 0 || st.Reordered == 0 || st.Duplicated == 0 || st.Corrupted == 0 {
		t.Errorf("got %+v, want some of each fault", st)
	}
	if st.RingDrops+st.Oversize+st.SendErrors+st.Unchanged > 0 {
		t.Errorf("got %+v, want no fault that was not asked for", st)
	}
}

// silentPair is two raw ends of a link with no kernel talking on it.
func silentPair(t *testing.T) (ra, rb *lab.Raw, link *lab.ImpairedLink) {
	t.Helper()
	a, b := labtest.Host(t, "a"), labtest.Host(t, "b")
	for _, h := range []*lab.Host{a, b} {
		labtest.Sysctl(t, h, "net.ipv6.conf.default.disable_ipv6", "1")
	}
	link = labtest.WireImpaired(t, a, "eth0", b, "eth0", lab.Impairment{})
	return labtest.Raw(t, a, "eth0"), labtest.Raw(t, b, "eth0"), link
}

// sendNumbered sends n frames and a last one that is never lost, and returns
// the numbers in the order they came out.
func sendNumbered(t *testing.T, ra, rb *lab.Raw, link *lab.ImpairedLink, n int) []int {
	t.Helper()
	seen := make(chan []int, 1)
	go func() { seen <- collect(limit(t), rb, n) }()
	for i := range n {
		if err := ra.Send(numbered(i)); err != nil {
			t.Fatal(err)
		}
		if i%200 == 199 {
			settleAt(t, link, uint64(i+1))
		}
	}
	settleAt(t, link, uint64(n))
	link.Set(lab.Impairment{})
	if err := ra.Send(numbered(n)); err != nil {
		t.Fatal(err)
	}
	return <-seen
}

// settleAt waits until the link has taken want more frames than at Set.
func settleAt(t *testing.T, link *lab.ImpairedLink, want uint64) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		both := link.Stats()
		s := both.AToB
		if s.Frames >= want && both.BToA.Delivered == both.BToA.Frames && s.Delivered+s.Lost+s.Eaten+s.QueueDrops >= s.Frames+s.Duplicated {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %+v, want %d frames taken and done with", s, want)
		}
		time.Sleep(time.Millisecond)
	}
}

func collect(ctx context.Context, r *lab.Raw, last int) []int {
	var got []int
	for {
		f, err := r.Recv(ctx)
		if err != nil {
			return append(got, -1)
		}
		n := numberOf(f.Data)
		if n == last {
			return got
		}
		got = append(got, n)
	}
}

// numbered is a frame of a protocol no kernel knows, with a number.
func numbered(i int) []byte {
	f := make([]byte, 64)
	copy(f, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5})
	f[14], f[15], f[16] = byte(i>>16), byte(i>>8), byte(i)
	return f
}

func numberOf(f []byte) int { return int(f[14])<<16 | int(f[15])<<8 | int(f[16]) }

func TestLossAndDuplicatesComeInTheShareAskedFor(t *testing.T) {
	ra, rb, link := silentPair(t)
	const n, loss, dup = 20000, 0.1, 0.05
	link.Set(lab.Impairment{Loss: loss, Duplicate: dup, Seed: 7})
	got := sendNumbered(t, ra, rb, link, n)
	distinct := len(slices.Compact(slices.Clone(got)))
	within(t, "lost", n-distinct, n, loss)
	within(t, "duplicated", len(got)-distinct, distinct, dup)
	if !slices.IsSorted(got) {
		t.Error("got frames out of order, want them in order without Reorder")
	}
}

// within fails unless got is near share of n: five standard deviations.
func within(t *testing.T, what string, got, n int, share float64) {
	t.Helper()
	want := float64(n) * share
	if off := math.Abs(float64(got) - want); off > 5*math.Sqrt(want*(1-share)) {
		t.Errorf("got %d %s, want about %.0f of %d", got, what, want, n)
	}
}

func TestSameSeedGivesTheSameFates(t *testing.T) {
	var runs [3][]int
	for i, seed := range []int64{3, 3, 4} {
		ra, rb, link := silentPair(t)
		link.Set(lab.Impairment{Loss: 0.3, Duplicate: 0.1, Seed: seed})
		runs[i] = sendNumbered(t, ra, rb, link, 2000)
	}
	if !slices.Equal(runs[0], runs[1]) {
		t.Error("got other fates with the same seed")
	}
	if slices.Equal(runs[0], runs[2]) {
		t.Error("got the same fates with another seed")
	}
}

func TestReorderedFramesAreOvertaken(t *testing.T) {
	ra, rb, link := silentPair(t)
	link.Set(lab.Impairment{Reorder: 0.05, Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Seed: 5})
	got := sendNumbered(t, ra, rb, link, 2000)
	if slices.IsSorted(got) {
		t.Error("got all frames in order, want some overtaken")
	}
	slices.Sort(got)
	for i, n := range got {
		if i != n {
			t.Fatalf("got frame %d at %d, want each once", n, i)
		}
	}
}

func TestDelayIsWhatWasAskedFor(t *testing.T) {
	ra, rb, link := silentPair(t)
	const delay = 50 * time.Millisecond
	link.Set(lab.Impairment{Delay: delay})
	start := time.Now()
	if err := ra.Send(numbered(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := rb.Recv(limit(t)); err != nil {
		t.Fatal(err)
	}
	if got := time.Since(start); got < delay || got > 10*delay {
		t.Errorf("got a frame after %v, want it after %v", got, delay)
	}
}

func TestRateBoundsWhatArrivesAndWhatWaits(t *testing.T) {
	ra, rb, link := silentPair(t)
	// 64 bytes at 512 kbit/s take 1 ms each.
	link.Set(lab.Impairment{Rate: 512_000, QueueBytes: 100 * 64})
	start := time.Now()
	got := sendNumbered(t, ra, rb, link, 200)
	if took := time.Since(start); took < 95*time.Millisecond {
		t.Errorf("got %d frames in %v, want a millisecond for each", len(got), took)
	}
	if drops := link.Stats().AToB.QueueDrops; drops == 0 || int(drops)+len(got) != 200 {
		t.Errorf("got %d frames and %d dropped by the queue, want 200 together", len(got), drops)
	}
}

func TestCutLinkEatsEverythingUntilMended(t *testing.T) {
	a, b, link := impairedPair(t, lab.Impairment{})
	s := labtest.Echo(t, b, families[0].b+":0")
	m, err := lab.OpenMany(limit(t), a, s.Addr(), 1)
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, m)
	link.Cut()
	c := m.Conns()[0]
	if _, err := c.Write([]byte("lost?")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if n, err := c.Read(buf); err == nil {
		t.Fatalf("got %q over a cut link", buf[:n])
	}
	if l, err := a.Link("eth0"); err != nil || !l.Carrier {
		t.Errorf("got link %+v, %v, want a carrier", l, err)
	}
	link.Mend()
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(buf); err != nil || string(buf) != "lost?" {
		t.Errorf("got %q, %v after mending, want the word", buf, err)
	}
	if link.Stats().AToB.Eaten == 0 {
		t.Error("got no frame eaten, want some")
	}
}

func TestOneDirectionCanFailAlone(t *testing.T) {
	ra, rb, link := silentPair(t)
	link.CutDirection(lab.AToB)
	if err := errors.Join(ra.Send(numbered(1)), rb.Send(numbered(2))); err != nil {
		t.Fatal(err)
	}
	f, err := ra.Recv(limit(t))
	if err != nil || numberOf(f.Data) != 2 {
		t.Fatalf("got %v, %v, want frame 2 from b", f, err)
	}
	settleAt(t, link, 1)
	if s := link.Stats(); s.AToB.Eaten != 1 || s.BToA.Delivered != 1 {
		t.Errorf("got %+v, want one eaten and one delivered", s)
	}
}

func TestCloseTwiceIsFine(t *testing.T) {
	_, _, link := silentPair(t)
	if err := errors.Join(link.Close(), link.Close()); err != nil {
		t.Error(err)
	}
}
