package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/carrytest"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
)

// crossing is an appliance with three cards towards clients and three towards
// backends, each with a host at its end, and all chosen by a seed: what the
// hosts' kernels negotiate, the MTUs, what the wires do to frames.
//
//	client x  10.1.x.2 ---- wanX 10.1.x.1 box lanY 10.2.y.1 ---- 10.2.y.2  backend y
//	        fd00:1:x::2         fd00:1:x::1     fd00:2:y::1     fd00:2:y::2
//
// Host 0 of the clients has backends too: one card is both ways.
type crossing struct {
	*rig
	seed    uint64
	ends    []*end // clients, then backends
	lanes   []carrytest.Lane
	limits  []int           // bytes one way, of each lane
	service map[int]string  // its name by the port of a slot
	text    strings.Builder // of the services
	process *process        // the appliance
}

// end is a host at one of the cards.
type end struct {
	host     *lab.Host
	card     string // of the box
	v4, v6   netip.Addr
	manner   manner
	from, to bool         // it has clients, backends
	capture  *lab.Capture // nil unless a single connection is looked at
}

// manner is how a host and its wire behave.
type manner struct {
	Timestamps, SACK, Scaling bool
	MTU, BoxMTU               int
	Wire                      *lab.Impairment // nil is a plain one, with super-frames and checksums left to the card
}

// hosts is how many there are on either side.
const hosts = 3

func newCrossing(t testing.TB, seed uint64, forwarding string, abreast, loss int) *crossing {
	t.Helper()
	c := &crossing{rig: &rig{t: t, box: labtest.Host(t, "box"), dir: t.TempDir()}, seed: seed, service: make(map[int]string)}
	c.file, c.socket = filepath.Join(c.dir, "appliance.yaml"), filepath.Join(c.dir, "a.sock")
	c.admin = admin.NewClient(c.socket)
	rng := rand.New(rand.NewPCG(seed, 0xca221e5))
	for n := range 2 * hosts {
		c.ends = append(c.ends, c.wire(n, newManner(rng, n%hosts == 0, loss)))
	}
	c.ends[0].to = true // one-armed
	for _, from := range c.ends {
		for _, to := range c.ends {
			if from.from && to.to && (from == to || to.card[0] == 'l') {
				c.lane(from, to, forwarding, abreast)
			}
		}
	}
	c.writeFile()
	return c
}

// newManner draws one, with a wire that loses no more than so many percent.
func newManner(rng *rand.Rand, plain bool, loss int) manner {
	one := func(values ...int) int { return values[rng.IntN(len(values))] }
	m := manner{Timestamps: rng.IntN(2) == 0, SACK: rng.IntN(3) > 0, Scaling: rng.IntN(3) > 0}
	mtus := [][2]int{{1500, 1500}, {1500, 1500}, {1280, 1280}, {9000, 9000}, {1400, 1500}, {9000, 1500}, {1500, 9000}}
	mtu := mtus[rng.IntN(len(mtus))]
	m.MTU, m.BoxMTU = mtu[0], mtu[1]
	im := &lab.Impairment{
		Loss: float64(min(loss, one(0, 1, 2, 5, 10))) / 100, Duplicate: float64(one(0, 1, 3)) / 100, Corrupt: float64(one(0, 1, 3)) / 100,
		Reorder: float64(one(0, 2, 10)) / 100, Delay: time.Duration(one(0, 2, 10)) * time.Millisecond,
		Jitter: time.Duration(one(0, 1)) * time.Millisecond, Seed: int64(rng.Uint64() >> 1),
	}
	if !plain {
		m.Wire = im
	}
	return m
}

// String is a manner for the log.
func (m manner) String() string {
	onOff := map[bool]string{true: "on", false: "off"}
	text := fmt.Sprintf("timestamps %s, SACK %s, scaling %s, MTU %d (box %d), ", onOff[m.Timestamps], onOff[m.SACK], onOff[m.Scaling], m.MTU, m.BoxMTU)
	if m.Wire == nil {
		return text + "plain wire"
	}
	return text + fmt.Sprintf("loss %g, duplicate %g, corrupt %g, reorder %g, delay %v ± %v", m.Wire.Loss, m.Wire.Duplicate, m.Wire.Corrupt, m.Wire.Reorder, m.Wire.Delay, m.Wire.Jitter)
}

// wire makes host n, with its card of the box.
func (c *crossing) wire(n int, m manner) *end {
	c.t.Helper()
	side, i, card := 1, n, fmt.Sprintf("wan%d", n)
	e := &end{from: true, manner: m}
	if n >= hosts {
		side, i = 2, n-hosts
		card = fmt.Sprintf("lan%d", i)
		e.from, e.to = false, true
	}
	e.card, e.host = card, labtest.Host(c.t, card+"'s peer")
	e.v4 = netip.MustParseAddr(fmt.Sprintf("10.%d.%d.2", side, i))
	e.v6 = netip.MustParseAddr(fmt.Sprintf("fd00:%d:%d::2", side, i))
	if m.Wire == nil {
		labtest.Wire(c.t, e.host, "e0", c.box, card)
	} else {
		labtest.WireImpaired(c.t, e.host, "e0", c.box, card, *m.Wire)
	}
	for _, err := range []error{e.host.SetMTU("e0", m.MTU), c.box.SetMTU(card, m.BoxMTU)} {
		if err != nil {
			c.t.Fatal(err)
		}
	}
	labtest.Addr(c.t, e.host, "e0", e.v4.String()+"/24", e.v6.String()+"/64")
	for key, on := range map[string]bool{"tcp_timestamps": m.Timestamps, "tcp_sack": m.SACK, "tcp_window_scaling": m.Scaling} {
		labtest.Sysctl(c.t, e.host, "net.ipv4."+key, map[bool]string{true: "1", false: "0"}[on])
	}
	for _, key := range []string{"ipv4.neigh.e0.mcast_solicit", "ipv4.neigh.e0.ucast_solicit", "ipv6.neigh.e0.mcast_solicit", "ipv6.neigh.e0.ucast_solicit"} {
		labtest.Sysctl(c.t, e.host, "net."+key, "20") // three questions are lost too easily
	}
	// Through a carrier of segments both wires lose, and what was lost several times
	// would wait for a minute. Kernels before 6.15 do not have it.
	_ = e.host.Sysctl("net.ipv4.tcp_rto_max_ms", "2000")
	// Nobody gives up sooner for it. A socket that is closed with bytes under way would
	// at the first timeout that is as long as that, be it the second of all: after few
	// losses, and without a word; its kernel answers what comes then with RST.
	for key, times := range map[string]string{"tcp_orphan_retries": "60", "tcp_retries2": "60", "tcp_syn_retries": "30", "tcp_synack_retries": "30"} {
		labtest.Sysctl(c.t, e.host, "net.ipv4."+key, times)
	}
	labtest.Sysctl(c.t, e.host, "net.ipv4.tcp_fastopen", "5") // data in the SYN without a cookie
	labtest.Sysctl(c.t, e.host, "net.ipv4.tcp_fastopen_blackhole_timeout_sec", "0")
	return e
}

// boxes returns the box's addresses at an end.
func (e *end) boxes() (v4, v6 netip.Addr) { return e.v4.Prev(), e.v6.Prev() }

// lane adds a way through the box, with a service for each connection that
// goes it at once.
func (c *crossing) lane(from, to *end, forwarding string, abreast int) {
	l := carrytest.Lane{Name: from.card + " to " + to.card, Client: from.host, Backend: to.host, Most: min(from.most(), to.most())}
	v4, v6 := from.boxes()
	for _, ip := range []netip.Addr{to.v4, to.v6} {
		for range abreast {
			port := 2000 + len(c.service)
			backend := netip.AddrPortFrom(ip, uint16(port))
			l.Slots = append(l.Slots, carrytest.Slot{V4: netip.AddrPortFrom(v4, uint16(port)), V6: netip.AddrPortFrom(v6, uint16(port)), Backend: backend})
			c.service[port] = fmt.Sprintf("s%d", port)
			fmt.Fprintf(&c.text, "  s%d: {type: proxy, listen: \"%s:%d\", backends: [\"%s\"], forwarding: %s, connect_timeout: 60s, connect_retries: 0}\n",
				port, from.card, port, backend, forwarding)
		}
	}
	c.lanes, c.limits = append(c.lanes, l), append(c.limits, l.Most)
}

// most is how much a connection may be given one way: at 10 % loss a few
// segments of a window get through between two timeouts.
func (e *end) most() int {
	switch {
	case e.manner.Wire == nil || e.manner.Wire.Loss == 0:
		return 1 << 20
	case e.manner.Wire.Loss <= 0.02:
		return 256 << 10
	}
	return 12 << 10
}

// writeFile writes the configuration. A reset that was lost is heard of by
// keepalive, within seconds; nothing else bounds a connection.
func (c *crossing) writeFile() {
	c.t.Helper()
	text := "interfaces:\n"
	for _, e := range c.ends {
		v4, v6 := e.boxes()
		text += fmt.Sprintf("  %s: {addresses: [%s/24, \"%s/64\"]}\n", e.card, v4, v6)
	}
	text += `policies:
  default:
    keepalive: {idle: 2s, interval: 1s, probes: 30}
    user_timeout: 2m
    retransmit: {max_rto: 2s, max_retries: 60, syn_retries: 6}
    time_wait: {duration: 5s}
services:
` + c.text.String() + "drain: {deadline: 10s, fin_grace: 10s}\nadmin: {socket: " + c.socket + "}\n"
	if err := os.WriteFile(c.file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// ledger is what the appliance remembers of the connections of a slot.
func (c *crossing) ledger(at carrytest.Slot) string {
	rows, err := c.admin.Ended(c.t.Context())
	text := ""
	if err != nil {
		text = err.Error()
	}
	for _, row := range rows {
		if row.Service == c.service[int(at.V4.Port())] {
			text += fmt.Sprintf("\n  %+v", row)
		}
	}
	live, err := c.admin.Conns(c.t.Context())
	if err != nil {
		text += err.Error()
	}
	for _, row := range live {
		if row.Service == c.service[int(at.V4.Port())] {
			text += "\n  alive: " + asJSON(row)
		}
	}
	return text
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// carriers counts which carrier the connections of this appliance had, by what
// it remembers.
func (c *crossing) carriers() map[string]int {
	c.t.Helper()
	out, stderr, code := c.run("conns", "--closed", "--json", "--limit", "0")
	var rows []struct {
		services.Ended
		Carrier string `json:"carrier"`
	}
	if err := json.Unmarshal([]byte(out), &rows); err != nil || code != exitOK {
		c.t.Fatalf("conns --closed: %v, status %d, %s", err, code, stderr)
	}
	count := make(map[string]int)
	for _, row := range rows {
		count[row.Carrier]++
	}
	return count
}

// capture records what the hosts send and receive.
func (c *crossing) capture() {
	for _, e := range c.ends {
		e.capture = labtest.Capture(c.t, e.host, "e0")
	}
}

// segments shows the last of a connection at both hosts, if they were recorded.
func (c *crossing) segments(r *carrytest.Result) string {
	const most = 60
	since := time.Now().Add(-r.Took - 10*time.Millisecond)
	lane := c.lanes[r.Schedule.Lane]
	text := ""
	for _, e := range c.ends {
		if e.capture == nil || e.host != lane.Client && e.host != lane.Backend {
			continue
		}
		var lines []string
		for _, s := range e.capture.Segments() {
			if port := r.Slot.Backend.Port(); s.Time.After(since) && (s.Dst.Port() == port || s.Src.Port() == port) {
				lines = append(lines, s.String())
			}
		}
		text += fmt.Sprintf("\nat the peer of %s, of %d:\n  ", e.card, len(lines)) + strings.Join(lines[max(0, len(lines)-most):], "\n  ")
	}
	return text
}

// stalls is how often the table has found that nothing would have been sent again.
func (c *crossing) stalls() uint64 {
	c.t.Helper()
	status, err := c.admin.Status(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return status.Table["stalls"]
}
