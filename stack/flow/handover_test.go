package flow_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/netif/frame"
	"github.com/lastack/lastack/stack/flow"
)

// open takes the n-th client through its handshake, with a window of our own.
func (c *crowd) open(n uint32) {
	c.show(n, true, flagSYN, 1000, 0)
	c.show(n, false, flagSYN|flagACK, 5000, 1001)
	c.show(n, true, flagACK, 1001, 5001)
	c.show(n, false, flagACK, 5001, 1001)
}

// mixed has 1,000 clients in TIME-WAIT, 1,000 that are connected, 1,000 who have
// closed, and 1,000 in the middle of their handshakes.
func mixed(t *testing.T) *crowd {
	t.Helper()
	c := newCrowd(10_000)
	for i := range uint32(1000) {
		c.end(i)
		c.open(1000 + i)
		c.open(2000 + i)
		c.show(2000+i, true, flagFIN|flagACK, 1001, 5001)
		c.show(2000+i, false, flagACK, 5001, 1002)
		c.show(3000+i, true, flagSYN, 1000, 0)
		c.show(3000+i, false, flagSYN|flagACK, 5000, 1001)
	}
	c.card.Own([6]byte{2, 0, 0, 0, 0, 1})
	return c
}

func saved(t *testing.T, c *crowd) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := c.table.Save(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Flows go on in another table: those in TIME-WAIT for what is left of their
// time, connections with what is known of them. Handshakes are not handed over.
func TestFlowsGoOnInAnotherTable(t *testing.T) {
	first := mixed(t)
	first.clock.Advance(20 * time.Second)
	image := saved(t, first)

	second := newCrowd(10_000)
	n, err := second.table.Load(bytes.NewReader(image), []int{0}, 10*time.Second)
	if err != nil || n != 3000 || second.table.Held() != 1000 {
		t.Fatalf("%d flows are loaded, %d of them in TIME-WAIT, %v; want 3000 and 1000", n, second.table.Held(), err)
	}
	if _, err := second.table.Load(bytes.NewReader(image), []int{0}, 0); err == nil {
		t.Error("a table in use was loaded into")
	}
	if got := second.show(7, true, flagFIN|flagACK, 1001, 5002); got != frame.Reply {
		t.Errorf("a FIN that comes again gets verdict %d, want an answer", got)
	}
	if got := second.show(1007, true, flagACK, 1001, 5001); got != frame.Pass {
		t.Errorf("an ACK of a live connection gets verdict %d, want it passed", got)
	}
	if got := second.show(1007, true, flagACK, 1001, 9999); got == frame.Pass {
		t.Error("an ACK of what was never sent is passed: the table does not know the connection")
	}
	second.table.Start(nil, nil)
	defer second.table.Close()
	second.clock.Advance(29 * time.Second)
	if got := second.table.Held(); got != 1000 {
		t.Errorf("after 29 of 30 s %d are left, want all", got)
	}
	second.clock.Advance(2 * time.Second)
	if got := second.table.Held(); got != 1 {
		t.Errorf("after their time %d are left, want the one whose FIN came again", got)
	}

	gone := newCrowd(10_000)
	if n, err := gone.table.Load(bytes.NewReader(image), []int{-1}, 0); err != nil || n != 0 {
		t.Errorf("%d flows of a card that is gone are loaded, %v", n, err)
	}
}

// What is cut, damaged or foreign is refused whole.
func TestBadFlowsAreRefused(t *testing.T) {
	image := saved(t, mixed(t))
	changed := func(at int) []byte {
		b := bytes.Clone(image)
		b[at] ^= 0x10
		return b
	}
	other := bytes.Replace(image, []byte(flow.Layout()), []byte(strings.Repeat("x", len(flow.Layout()))), 1)
	for name, bad := range map[string][]byte{
		"empty": nil, "half": image[:len(image)/2], "without its sum": image[:len(image)-8], "short": image[:len(image)-1],
		"a record": changed(len(image) / 2), "the sum": changed(len(image) - 1), "another form": other, "noise": bytes.Repeat([]byte{7}, 1<<20),
	} {
		c := newCrowd(10_000)
		n, err := c.table.Load(bytes.NewReader(bad), []int{0}, 0)
		if err == nil || n != 0 || c.table.Held() != 0 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %d flows, %v", name, n, err)
		}
	}
}

// Peers who may still send are told that the window is closed, and later the one
// that they knew, with exact numbers.
func TestWindowsAreClosedAndOpened(t *testing.T) {
	c := mixed(t)
	var windows []uint16
	c.card.Start(func(_ frame.Header, eth, net []byte) {
		if tcp := net[20:]; tcp[13] != flagACK || binary.BigEndian.Uint32(tcp[4:]) != 5001 || binary.BigEndian.Uint32(tcp[8:]) != 1001 || len(eth) != 14 {
			t.Errorf("sent % x", net)
		} else {
			windows = append(windows, binary.BigEndian.Uint16(tcp[14:]))
		}
	})
	all := func(want uint16) {
		t.Helper()
		if len(windows) != 1000 {
			t.Errorf("%d peers were told, want 1000", len(windows))
		}
		for _, w := range windows {
			if w != want {
				t.Fatalf("a window of %d, want %d", w, want)
			}
		}
		windows = nil
	}
	if n := c.table.CloseWindows(); n != 1000 {
		t.Errorf("%d are said to have been told", n)
	}
	all(0)
	if n := c.table.OpenWindows(); n != 1000 {
		t.Errorf("%d are said to have been told", n)
	}
	all(0xff00)
}

func BenchmarkHandOver(b *testing.B) {
	c := newCrowd(20_000)
	for i := range uint32(10_000) {
		c.open(i)
	}
	for b.Loop() {
		var image bytes.Buffer
		if err := c.table.Save(&image); err != nil {
			b.Fatal(err)
		}
		if n, err := newCrowd(20_000).table.Load(&image, []int{0}, 0); err != nil || n != 10_000 {
			b.Fatal(n, err)
		}
	}
}
