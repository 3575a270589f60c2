package servicestest

import (
	"net/netip"
	"syscall"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// carriedFlow is a connection that a CarrierNet carries: our two ends, which it
// owns. Everything is guarded by Net.mu.
type carriedFlow struct {
	net     *CarrierNet
	owner   string
	ref     tcpinfo.CarriedRef
	carrier tcpinfo.Carrier
	client  *Conn // while connecting it is the client's own end
	backend *Conn
	opened  time.Time
	moved   time.Time
	connect time.Duration
	retries int

	connecting          bool
	toBackend, toClient int64
	answered            bool

	first    tcpinfo.Who
	firstBy  tcpinfo.Rule // that has acted
	asked    tcpinfo.Rule // that will
	firstOf  tcpinfo.LegName
	byRST    bool
	broken   tcpinfo.LegName // gave up by a rule
	brokenBy tcpinfo.Rule

	ending   string // what End asked for, "" before
	patience time.Time
	grace    time.Duration
	graceBy  time.Time
	parted   bool
	gone     bool
}

func (f *carriedFlow) watch(ends ...*Conn) {
	for _, c := range ends {
		c.held, c.notify = false, f.pump
	}
}

// direct carries a client from its SYN on, if its listener is carried so.
func (n *CarrierNet) direct(client *Conn) bool {
	by := n.by(client.remote)
	if by.carrier != tcpinfo.Direct {
		return false
	}
	addr, ok := n.owners[by.owner].Choose(client.local, netip.AddrPort{})
	if !ok {
		return false
	}
	if n.Lost {
		n.owners[by.owner].Spared(addr)
		return false
	}
	n.nextID++
	n.slots++
	f := &carriedFlow{net: n, owner: by.owner, ref: tcpinfo.CarriedRef{ID: n.nextID, Slot: n.slots}, carrier: tcpinfo.Direct,
		client: client, connecting: true, opened: time.Now(), moved: time.Now()}
	n.flows[f.ref.ID] = f
	f.attempt(addr)
	return true
}

// attempt sends a SYN to a backend.
func (f *carriedFlow) attempt(addr netip.AddrPort) {
	n := f.net
	n.dials[addr]++
	n.nextPort++
	b := n.end(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), n.nextPort), addr)
	b.dialing = true
	f.backend = b
	b.notify = func() { f.answer(b) }
	n.after(func() { n.syn(b) })
	f.later(n.owners[f.owner].ConnectTimeout, func() {
		if f.connecting && f.backend == b {
			b.abort()
			f.missed(addr, syscall.ETIMEDOUT)
		}
	})
}

// answer looks how the attempt went.
func (f *carriedFlow) answer(b *Conn) {
	switch {
	case !f.connecting || f.backend != b:
	case b.err != nil:
		delete(f.net.open, b)
		f.missed(b.remote, b.err)
	case !b.dialing:
		f.connecting, f.connect, f.moved = false, time.Since(f.opened), time.Now()
		f.net.owners[f.owner].Tried(b.remote, nil)
		client := f.client
		f.client = f.net.end(client.remote, client.local)
		f.client.peer, client.peer = client, f.client
		f.watch(f.client, b)
		f.net.after(func() {
			client.dialing = false
			client.event()
		})
	}
}

func (f *carriedFlow) missed(addr netip.AddrPort, err error) {
	o := f.net.owners[f.owner]
	o.Tried(addr, err)
	if f.retries++; f.retries <= o.ConnectRetries {
		if next, ok := o.Choose(f.client.local, addr); ok {
			f.attempt(next)
			return
		}
	}
	why := tcpinfo.Refused
	if err == syscall.ETIMEDOUT {
		why = tcpinfo.ConnectTimeout
	}
	f.end(tcpinfo.CarriedEnd{How: "rst", Why: why})
}

// pump moves what can be moved, and FIN and RST with it.
func (f *carriedFlow) pump() {
	if f.gone || f.connecting {
		return
	}
	f.move(f.client, f.backend, tcpinfo.ClientLeg)
	f.move(f.backend, f.client, tcpinfo.BackendLeg)
	if f.gone {
		return
	}
	if f.ending != "" && !f.parted && f.still() && f.client.finRead == f.backend.finRead {
		f.part()
	}
	if f.closed(f.client) && f.closed(f.backend) {
		f.leave()
	}
}

func (f *carriedFlow) closed(c *Conn) bool { return c.finRead && c.finAcked }

// still reports whether nothing is under way.
func (f *carriedFlow) still() bool {
	quiet := true
	for _, c := range [...]*Conn{f.client, f.backend} {
		quiet = quiet && len(c.received) == 0 && len(c.sending) == 0 && c.flying == 0
	}
	return quiet && (f.ending != "turn" || f.answered && time.Since(f.moved) >= turnQuiet)
}

// turnQuiet without a byte after one to the client is the end of an answer.
const turnQuiet = 20 * time.Millisecond

// move brings one direction on.
func (f *carriedFlow) move(from, to *Conn, leg tcpinfo.LegName) {
	if from.err != nil && !f.gone {
		f.saw(leg, true)
		to.abort()
		f.leave()
		return
	}
	if f.ending == "turn" && leg == tcpinfo.ClientLeg && f.answered && len(from.received) > 0 && !f.parted {
		f.part()
	}
	if n := min(len(from.received), to.size-len(to.sending)); n > 0 {
		if !f.parted {
			to.sending = append(to.sending, from.received[:n]...)
			f.count(leg, n)
		}
		from.received = from.received[n:]
		to.transmit()
		if from.peer != nil {
			from.peer.transmit()
		}
	}
	if from.finRead && len(from.received) == 0 && !to.finAsked {
		f.saw(leg, false)
		to.closeWrite()
	}
}

func (f *carriedFlow) count(leg tcpinfo.LegName, n int) {
	f.moved, f.answered = time.Now(), leg == tcpinfo.BackendLeg
	if f.answered {
		f.toClient += int64(n)
	} else {
		f.toBackend += int64(n)
	}
	if f.ending == "turn" {
		f.later(turnQuiet, f.pump)
	}
}

func (f *carriedFlow) saw(leg tcpinfo.LegName, rst bool) {
	if f.first == tcpinfo.Nobody {
		f.first, f.firstOf, f.byRST = tcpinfo.Peer, leg, rst
	}
}

// end does what End says.
func (f *carriedFlow) end(how tcpinfo.CarriedEnd) {
	if f.firstBy == "" {
		f.asked = how.Why
	}
	if how.How == "rst" || f.connecting {
		f.reset()
		return
	}
	if f.ending == "" || f.ending == "turn" {
		f.ending = how.How
	}
	if by := time.Now().Add(how.Patience); f.patience.IsZero() || by.Before(f.patience) {
		f.patience = by
		f.later(how.Patience, func() {
			if !f.gone && !f.parted && !time.Now().Before(f.patience) {
				f.reset()
			}
		})
	}
	f.grace = how.Grace
	if how.How == "turn" {
		f.later(turnQuiet, f.pump)
	}
	if f.parted {
		f.boundGrace()
	}
	if how.How == "fin" && (f.still() || f.client.finRead != f.backend.finRead) && !f.parted {
		f.part()
	}
	f.pump()
}

// part sends our FIN both ways.
func (f *carriedFlow) part() {
	f.firstBy = f.asked
	if f.client.finRead && f.backend.finRead {
		return // they have finished by themselves
	}
	f.parted = true
	if f.first == tcpinfo.Nobody {
		f.first = tcpinfo.Us
	}
	f.boundGrace()
	f.client.closeWrite()
	f.backend.closeWrite()
}

func (f *carriedFlow) boundGrace() {
	by := time.Now().Add(f.grace)
	if !f.graceBy.IsZero() && !by.Before(f.graceBy) {
		return
	}
	f.graceBy = by
	f.later(f.grace, func() {
		if !f.gone && !time.Now().Before(f.graceBy) {
			f.reset()
		}
	})
}

func (f *carriedFlow) reset() {
	f.firstBy = f.asked
	if f.first == tcpinfo.Nobody {
		f.first, f.byRST = tcpinfo.Us, true
	}
	if f.connecting {
		f.backend.abort()
		client := f.client
		f.net.after(func() { client.fail(syscall.ECONNREFUSED) })
	} else {
		for _, c := range [...]*Conn{f.client, f.backend} {
			if !f.closed(c) {
				c.abort()
			}
		}
	}
	f.leave()
}

// leave ends the flow and reports it.
func (f *carriedFlow) leave() {
	if f.gone {
		return
	}
	f.gone = true
	c := f.carried()
	for _, end := range [...]*Conn{f.client, f.backend} {
		if end == nil || f.connecting && end == f.client {
			continue
		}
		end.closed, end.notify = true, nil
		delete(f.net.open, end)
	}
	delete(f.net.flows, f.ref.ID)
	owner := f.net.owners[f.owner]
	time.AfterFunc(0, func() { owner.Ended(&c) })
}

// later runs do under the lock.
func (f *carriedFlow) later(d time.Duration, do func()) {
	time.AfterFunc(d, func() {
		f.net.mu.Lock()
		defer f.net.mu.Unlock()
		do()
	})
}

func (f *carriedFlow) view() tcpinfo.CarriedView {
	v := tcpinfo.CarriedView{
		Ref: f.ref, Carrier: f.carrier, Connecting: f.connecting, Moved: time.Since(f.moved), Answered: f.answered, Parted: f.parted,
		Client: f.client.remote, Backend: f.backend.remote,
	}
	if f.connecting {
		v.Client = f.client.local
		return v
	}
	one, both := f.client.finRead != f.backend.finRead, f.client.finRead && f.backend.finRead
	v.HalfClosed, v.Finished = one, both && !f.parted
	turn := f.ending
	f.ending = ""
	v.Quiet = f.still()
	f.ending = turn
	return v
}

func (f *carriedFlow) carried() tcpinfo.Carried {
	c := tcpinfo.Carried{
		Ref: f.ref, Carrier: f.carrier, View: f.view(), Policy: f.net.owners[f.owner].Policy,
		Opened: f.opened, Age: time.Since(f.opened), Connect: f.connect, Retries: f.retries,
		First: f.first, FirstBy: f.firstBy, FirstOf: f.firstOf, ByRST: f.byRST,
	}
	if f.connecting {
		c.Client = tcpinfo.Leg{Local: f.client.remote, Remote: f.client.local, Reset: f.gone}
		if f.firstBy == tcpinfo.Refused || f.firstBy == tcpinfo.ConnectTimeout {
			c.Last, c.View.Backend = c.View.Backend, netip.AddrPort{} // the client waits without one
		}
		return c
	}
	c.Client, c.Backend = f.leg(f.client, tcpinfo.ClientLeg), f.leg(f.backend, tcpinfo.BackendLeg)
	c.Client.Sent, c.Backend.Sent = f.toClient, f.toBackend
	return c
}

func (f *carriedFlow) leg(c *Conn, name tcpinfo.LegName) tcpinfo.Leg {
	l := tcpinfo.Leg{
		Local: c.local, Remote: c.remote, Info: tcpinfo.Info{State: c.state()},
		Life: tcpinfo.Life{FinSent: c.finAsked, FinAcked: c.finAcked, PeerFin: c.finRead},
		EOF:  c.finRead, FIN: c.finAsked, Reset: c.resets > 0, Died: c.err == syscall.ECONNRESET,
	}
	if f.broken == name {
		l.Died, l.Rule = true, f.brokenBy
	}
	return l
}
