package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services"
)

const pause = 200 * time.Millisecond

// member is one client of a crowd, and what it saw in the end: io.EOF or
// ECONNRESET.
type member struct {
	kind string
	conn net.Conn
	saw  chan error
}

// behave runs a client of a kind.
func (m *member) behave(stop <-chan struct{}) {
	defer m.conn.Close()
	chatter := func() { // until it fails
		for {
			select {
			case <-stop:
				return
			case <-time.After(pause):
			}
			if _, err := m.conn.Write([]byte("more\n")); err != nil {
				return
			}
		}
	}
	switch m.kind {
	case "sending":
		go chatter()
	case "deaf": // reads nothing until all is over
		<-stop
	case "left behind": // the server's half has ended, ours goes on
		_, _ = io.Copy(io.Discard, m.conn)
		for {
			time.Sleep(pause)
			if _, err := m.conn.Write([]byte("more\n")); err != nil {
				m.saw <- err
				return
			}
		}
	}
	_, err := io.Copy(io.Discard, m.conn)
	if err == nil {
		err = io.EOF
	}
	m.saw <- err
}

// backends for each kind.
func talkative(c net.Conn) error { // sends, whatever the client does
	go func() { _, _ = io.Copy(io.Discard, c) }()
	for {
		if _, err := c.Write([]byte("news\n")); err != nil {
			return nil // it is over
		}
		time.Sleep(pause)
	}
}

func flooding(c net.Conn) error {
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.Write(buf); err != nil {
			return nil
		}
	}
}

func brief(c net.Conn) error { // ends its half and listens on
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c)
	return ignoreReset(err)
}

func discarding(c net.Conn) error {
	_, err := io.Copy(io.Discard, c)
	return ignoreReset(err)
}

func ignoreReset(err error) error {
	if errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}

// Connections in every state when the appliance is told to stop: every client
// that can be reached sees the end or a reset, none is left half open, and the
// report says of each what its client saw.
func TestEveryStateEndsAtSIGTERMAndTheReportAgrees(t *testing.T) {
	each := 250
	if testing.Short() {
		each = 30
	}
	byEachCarrier(t, func(t *testing.T, forwarding string) { everyStateEnds(t, forwarding, nil, each, 2*time.Second) })
}

// The same over a line that loses one frame of twenty and takes 50 ms there and
// back.
func TestEveryStateEndsAtSIGTERMOverABadLine(t *testing.T) {
	each := 250
	if testing.Short() {
		each = 12
	}
	var all sync.WaitGroup
	for _, forwarding := range forwardings(t) {
		all.Go(func() { // at once, however few the cores are: it mostly waits
			t.Run(forwarding, func(t *testing.T) {
				everyStateEnds(t, forwarding, &lab.Impairment{Loss: 0.05, Delay: 25 * time.Millisecond, Seed: 7}, each, 5*time.Second)
			})
		})
	}
	all.Wait()
}

// everyStateEnds has so many connections of each kind.
func everyStateEnds(t *testing.T, forwarding string, fault *lab.Impairment, each int, grace time.Duration) {
	const deadline = 2 * time.Second
	r := newRig(t, fault)
	ghost, stranger := netip.MustParsePrefix("192.0.2.3/24"), netip.MustParseAddr("192.0.2.77")
	if err := r.client.AddAddr("c0", ghost); err != nil {
		t.Fatal(err)
	}
	for port, handle := range map[string]func(net.Conn) error{
		"9": discarding, "19": talkative, "21": brief, "22": flooding,
	} {
		s, err := lab.Serve(t.Context(), r.backend, "10.0.0.21:"+port, handle)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() }) // what the resets do to it is not judged
	}
	r.configure(fmt.Sprintf(`services:
  discard: {type: proxy, listen: "wan0:9", backends: ["10.0.0.21:9"], forwarding: %[1]s, ledger: 4096}
  talk: {type: proxy, listen: "wan0:19", backends: ["10.0.0.21:19"], forwarding: %[1]s, ledger: 4096}
  brief: {type: proxy, listen: "wan0:21", backends: ["10.0.0.21:21"], forwarding: %[1]s, ledger: 4096}
  flood: {type: proxy, listen: "wan0:22", backends: ["10.0.0.21:22"], forwarding: %[1]s, ledger: 4096}
drain: {deadline: 2s, fin_grace: %[2]s}
`, forwarding, grace))
	p := r.start()
	stop := make(chan struct{})
	var owned sync.WaitGroup
	var crowd []*member
	join := func(kind, from, port string) {
		addr := netip.MustParseAddrPort("192.0.2.10:" + port)
		conns, err := abreast(each, func() (net.Conn, error) {
			c, err := r.client.DialFrom(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(from), 0), addr)
			if err == nil {
				_, err = c.Write([]byte("hello\n"))
			}
			return c, err
		})
		if err != nil {
			t.Fatalf("a client that is to be %s: %v", kind, err)
		}
		for _, c := range conns {
			m := &member{kind: kind, conn: c, saw: make(chan error, 1)}
			crowd = append(crowd, m)
			if kind == "half closed" {
				if err := c.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			owned.Go(func() { m.behave(stop) })
		}
	}
	join("idle", "192.0.2.2", "9")
	join("sending", "192.0.2.2", "9")
	join("receiving", "192.0.2.2", "19")
	join("half closed", "192.0.2.2", "19")
	join("left behind", "192.0.2.2", "21")
	join("deaf", "192.0.2.2", "22")
	join("unplugged", "192.0.2.3", "19")
	if err := r.client.RemoveAddr("c0", ghost); err != nil {
		t.Fatal(err)
	}
	raw := labtest.Raw(t, r.client, "c0")
	for i := range each { // handshakes that nobody will finish
		syn := lab.Craft{SrcMAC: macOf(t, r.client, "c0"), DstMAC: macOf(t, r.box, "wan0"), Flags: lab.SYN, Seq: 1, Win: 1000,
			Src: netip.AddrPortFrom(stranger, uint16(2000+i)), Dst: netip.MustParseAddrPort("192.0.2.10:9")}
		if err := raw.Send(syn.Frame()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "every connection is relayed", func() bool {
		rows, err := r.admin.Conns(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		relayed := 0
		for _, row := range rows {
			if row.Stage == services.Relaying.String() && row.Client.Addr() != stranger {
				relayed++
			}
		}
		return relayed == len(crowd)
	})
	time.Sleep(3 * pause)

	begin := time.Now()
	p.signal(syscall.SIGTERM)
	if code := p.end(30 * time.Second); code != exitReset {
		t.Errorf("exit status %d, want %d: the deaf and the unplugged have to be reset", code, exitReset)
	}
	close(stop)
	report, err := loadReport(filepath.Join(r.dir, "nic"))
	if err != nil {
		t.Fatal(err)
	}
	if report.Took < deadline || report.Took > deadline+grace+2*time.Second {
		t.Errorf("the drain took %v, want the deadline of %v and the grace of %v", report.Took, deadline, grace)
	}
	told := map[netip.AddrPort]services.Ended{}
	total := 0
	for _, s := range report.Services {
		for _, e := range s.Connections {
			if e.ClientAddr.Addr() == stranger { // carried from the SYN on, a handshake is a connection
				if e.Outcome == services.Clean {
					t.Errorf("the report calls the end of an unfinished handshake clean: %+v", e)
				}
				continue
			}
			told[e.ClientAddr] = e
			total++
		}
	}
	if total != len(crowd) || len(told) != total {
		t.Errorf("the report has %d connections, %d different, want %d", total, len(told), len(crowd))
	}
	saw := map[string]int{}
	for _, m := range crowd {
		e, listed := told[netip.MustParseAddrPort(m.conn.LocalAddr().String())]
		if !listed {
			t.Errorf("the report does not have the client %s, which was %s", m.conn.LocalAddr(), m.kind)
			continue
		}
		if m.kind == "unplugged" {
			if e.Outcome == services.Clean {
				t.Errorf("the report calls an unplugged client's end clean: %+v", e)
			}
			m.conn.Close() // nobody will ever tell it
			continue
		}
		select {
		case err := <-m.saw:
			reset := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
			switch {
			case !reset && err != io.EOF:
				t.Errorf("a client that was %s saw %v", m.kind, err)
			case reset && !e.Client.Reset, !reset && fault == nil && e.Client.Reset && !e.Client.FinAcked: // a FIN before the reset is what is read
				t.Errorf("a client that was %s saw %v, and the report says %+v", m.kind, err, e.Client)
			}
			if reset {
				saw[m.kind+" reset"]++
			} else {
				saw[m.kind+" ended"]++
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("a client that was %s still waits; the report says %+v", m.kind, e)
		}
	}
	t.Logf("%d connections, drained in %v, all in all %v: %v", len(crowd)+each, report.Took.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond), saw)
	for _, kind := range []string{"idle", "receiving", "half closed", "sending"} {
		if fault == nil && saw[kind+" ended"] != each { // over a bad line FINs may need longer than the grace
			t.Errorf("%d of %d clients that were %s saw the end, want all: %v", saw[kind+" ended"], each, kind, saw)
		}
	}
	owned.Wait()
	for name, host := range map[string]*lab.Host{"client": r.client, "backend": r.backend} {
		var left []lab.Socket
		t.Cleanup(func() {
			for _, s := range left {
				e := told[s.Local]
				t.Logf("a %s has %+v; the report says %+v", name, s, e)
			}
		})
		eventually(t, 5*time.Second, "no socket of a "+name+" is left half open", func() bool {
			all, err := host.TCPSockets()
			if err != nil {
				t.Fatal(err)
			}
			left = slices.DeleteFunc(all, func(s lab.Socket) bool {
				return s.State.String() == "TIME-WAIT" || s.State.String() == "LISTEN" || s.Local.Addr() == ghost.Addr()
			})
			return len(left) == 0
		})
	}
}

// byEachCarrier runs f for those that differ most; for the usual one alone in a
// short run, as that of the race detector.
func byEachCarrier(t *testing.T, f func(t *testing.T, forwarding string)) {
	all := []string{"direct", "relay"}
	if testing.Short() {
		all = all[:1]
	}
	for _, forwarding := range all {
		t.Run(forwarding, func(t *testing.T) { f(t, forwarding) })
	}
}

// abreast makes n connections, 64 at a time.
func abreast(n int, dial func() (net.Conn, error)) ([]net.Conn, error) {
	conns, errs := make([]net.Conn, n), make([]error, n)
	var all sync.WaitGroup
	room := make(chan struct{}, 64)
	for i := range n {
		room <- struct{}{}
		all.Go(func() {
			conns[i], errs[i] = dial()
			<-room
		})
	}
	all.Wait()
	return conns, errors.Join(errs...)
}

func macOf(t *testing.T, h *lab.Host, ifname string) lab.MAC {
	t.Helper()
	l, err := h.Link(ifname)
	if err != nil {
		t.Fatal(err)
	}
	return l.MAC
}
