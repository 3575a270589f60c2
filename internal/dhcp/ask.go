package dhcp

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// rebootTries are the questions for a lease of before: after 7 seconds of silence
// it is used for as long as it lasts, or another is asked for.
const rebootTries = 3

// reboot asks for the lease of before (RFC 2131, 4.3.2, INIT-REBOOT). It returns
// nil if another has to be asked for.
func (c *Client) reboot(ctx context.Context, kept *Lease) *Lease {
	c.set(func(s *Status) { s.State = Rebooting })
	answer, next := c.confirm(ctx, kept)
	switch {
	case next != nil:
		return next
	case answer != nil || ctx.Err() != nil:
		return nil // refused
	case kept.Valid(time.Now()):
		// RFC 2131, 3.2: "the client MAY choose to use the previously allocated
		// network address and configuration parameters for the remainder of the
		// unexpired lease".
		silent := *kept
		silent.Silent = true
		return &silent
	}
	return nil
}

// confirm asks whether a lease is still good. Of the three: an answer that is no
// lease is a refusal, and no answer is silence.
func (c *Client) confirm(ctx context.Context, kept *Lease) (answer *dhcpv4.DHCPv4, next *Lease) {
	asked := time.Now()
	m := c.message(dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(kept.Prefix.Addr().AsSlice())))
	answer = c.exchange(ctx, question{
		m: m, tries: rebootTries, wait: backoff, fits: verdict,
		send: func(p []byte) error { return c.o.Conn.Broadcast(p, netip.IPv4Unspecified()) },
	})
	if answer == nil || answer.MessageType() == dhcpv4.MessageTypeNak {
		return answer, nil
	}
	next, err := leaseOf(answer, asked, kept)
	if err != nil {
		c.o.Log.Warn("an answer of a DHCP server is of no use", "error", err)
		return answer, nil
	}
	return answer, next
}

// acquire asks for any address, and prefers that of before. It returns nil only
// at the end of ctx.
func (c *Client) acquire(ctx context.Context, before *Lease) *Lease {
	begun := time.Now()
	for ctx.Err() == nil {
		c.set(func(s *Status) { s.State, s.Tries = Selecting, 0 })
		discover := c.message(dhcpv4.MessageTypeDiscover)
		if before != nil {
			discover.UpdateOption(dhcpv4.OptRequestedIPAddress(before.Prefix.Addr().AsSlice()))
		}
		broadcast := func(p []byte) error { return c.o.Conn.Broadcast(p, netip.IPv4Unspecified()) }
		offer := c.exchange(ctx, question{m: discover, wait: backoff, begun: begun, send: broadcast, fits: func(m *dhcpv4.DHCPv4) bool {
			return m.MessageType() == dhcpv4.MessageTypeOffer && m.ServerIdentifier() != nil
		}})
		if offer == nil {
			return nil
		}
		c.set(func(s *Status) { s.State, s.Tries = Requesting, 0 })
		asked := time.Now()
		m := c.message(dhcpv4.MessageTypeRequest, dhcpv4.WithTransactionID(discover.TransactionID),
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())))
		answer := c.exchange(ctx, question{m: m, wait: backoff, tries: requestTries, begun: begun, send: broadcast, fits: func(m *dhcpv4.DHCPv4) bool {
			return verdict(m) && m.ServerIdentifier().Equal(offer.ServerIdentifier())
		}})
		switch {
		case answer == nil: // the server has gone
		case answer.MessageType() == dhcpv4.MessageTypeNak:
			c.pauseAfterNak(ctx, answer)
		default:
			l, err := leaseOf(answer, asked, nil)
			if err == nil {
				return l
			}
			c.pause(ctx, refusedPause, err)
		}
		before = nil
	}
	return nil
}

// requestTries are the repetitions of a request for what was offered.
const requestTries = 4

// pauseAfterNak keeps a server that offers what it then refuses from a storm.
func (c *Client) pauseAfterNak(ctx context.Context, nak *dhcpv4.DHCPv4) {
	c.set(func(s *Status) { s.Last = "the server refused what it had offered " + plain(nak.Message()) })
	sleep(ctx, backoff(1))
}

// keep holds a lease until something changes, and returns what is held then; a
// lease that has Ended is not.
func (c *Client) keep(ctx context.Context, l *Lease) *Lease {
	timer := time.NewTimer(max(0, l.left(time.Now(), l.Renew)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return l
	case <-c.link:
		return c.recheck(ctx, l)
	case <-timer.C:
	}
	for _, phase := range []struct {
		state State
		end   time.Duration
	}{{Renewing, l.Rebind}, {Rebinding, l.Lasts}} {
		c.set(func(s *Status) { s.State, s.Tries = phase.state, 0 })
		if next, over := c.extend(ctx, l, phase.state, phase.end); over {
			return next
		}
	}
	return c.lose(l, "no server has renewed it, and its time is over")
}

// recheck asks again after the link has come back. Silence changes nothing.
func (c *Client) recheck(ctx context.Context, l *Lease) *Lease {
	answer, next := c.confirm(ctx, l)
	switch {
	case next != nil:
		return c.replace(ctx, l, next)
	case answer != nil && answer.MessageType() == dhcpv4.MessageTypeNak:
		return c.lose(l, "the link came back on a network whose server refuses it")
	}
	return l
}

// extend asks for more time until a moment of the lease: one server (renewing) or
// any (rebinding). over is false if nobody has answered.
func (c *Client) extend(ctx context.Context, l *Lease, state State, end time.Duration) (next *Lease, over bool) {
	until := l.Acquired.Add(end)
	asked := time.Now()
	m := c.message(dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(l.Prefix.Addr().AsSlice()))
	m.SetUnicast()
	q := question{m: m, until: until, fits: verdict}
	// RFC 2131, 4.4.5: "the client SHOULD wait one-half of the remaining time until
	// T2 (in RENEWING state) and one-half of the remaining lease time (in REBINDING
	// state), down to a minimum of 60 seconds": of a short lease, an eighth.
	least := min(60*time.Second, time.Until(until)/8)
	q.wait = func(int) time.Duration { return max(least, time.Until(until)/2) }
	q.send = func(p []byte) error { return c.o.Conn.Broadcast(p, l.Prefix.Addr()) }
	if state == Renewing && l.Server.IsValid() {
		to := &net.UDPAddr{IP: l.Server.AsSlice(), Port: dhcpv4.ServerPort}
		q.send = func(p []byte) error { _, err := c.o.Conn.WriteTo(p, to); return err }
	}
	answer := c.exchange(ctx, q)
	switch {
	case ctx.Err() != nil:
		return l, true
	case answer == nil:
		return nil, false
	case answer.MessageType() == dhcpv4.MessageTypeNak:
		return c.lose(l, "the server refuses to renew it"), true
	}
	next, err := leaseOf(answer, asked, l)
	if err != nil {
		c.o.Log.Warn("an answer of a DHCP server is of no use", "error", err)
		return nil, false
	}
	return c.replace(ctx, l, next), true
}

// replace goes on with an answer about a lease that is held.
func (c *Client) replace(ctx context.Context, old, next *Lease) *Lease {
	if next.Prefix == old.Prefix {
		c.o.Holder.Renewed(*old, *next)
		c.bound(next, old)
		return next
	}
	ended := c.lose(old, "the server has given "+next.Prefix.String()+" in its place")
	if !c.take(ctx, next) {
		return ended
	}
	return next
}

// decline tells the server that another host has the address (RFC 2131, 4.4.4).
func (c *Client) decline(l *Lease) {
	m := c.message(dhcpv4.MessageTypeDecline, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(l.Prefix.Addr().AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice())))
	m.Options.Del(dhcpv4.OptionParameterRequestList)
	if err := c.o.Conn.Broadcast(m.ToBytes(), netip.IPv4Unspecified()); err != nil {
		c.o.Log.Warn("the server was not told that another host has the address", "error", err)
	}
	if err := c.o.Save(nil); err != nil {
		c.o.Log.Warn("the declined lease is still remembered", "error", err)
	}
}

// message makes one of ours. The answer is asked for by broadcast, because a card
// without an address hears nothing else.
func (c *Client) message(kind dhcpv4.MessageType, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m, err := dhcpv4.New(dhcpv4.WithHwAddr(c.o.MAC), dhcpv4.WithMessageType(kind), dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1500)),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter,
			dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName, dhcpv4.OptionHostName, dhcpv4.OptionNTPServers))
	if err != nil {
		panic("dhcp: internal error: no random number for a transaction: " + err.Error())
	}
	if c.o.Hostname != "" && kind != dhcpv4.MessageTypeDecline {
		m.UpdateOption(dhcpv4.OptHostName(c.o.Hostname))
	}
	for _, f := range more {
		f(m)
	}
	return m
}

// verdict is an answer to a request.
func verdict(m *dhcpv4.DHCPv4) bool {
	return m.MessageType() == dhcpv4.MessageTypeAck || m.MessageType() == dhcpv4.MessageTypeNak
}

// question is a message that is sent until an answer fits.
type question struct {
	m     *dhcpv4.DHCPv4
	send  func([]byte) error
	wait  func(n int) time.Duration // after sending it the nth time, from 0
	fits  func(*dhcpv4.DHCPv4) bool
	tries int       // 0 is any number
	until time.Time // zero is never
	begun time.Time // for the seconds that the message tells; zero is now
}

// exchange returns the answer, or nil at the end of ctx, tries or time.
func (c *Client) exchange(ctx context.Context, q question) *dhcpv4.DHCPv4 {
	if q.begun.IsZero() {
		q.begun = time.Now()
	}
	for n := 0; q.tries == 0 || n < q.tries; n++ {
		if !q.until.IsZero() && !time.Now().Before(q.until) {
			return nil
		}
		q.m.NumSeconds = uint16(min(time.Since(q.begun)/time.Second, 0xffff))
		if err := q.send(q.m.ToBytes()); err != nil {
			c.o.Log.Debug("a DHCP message was not sent", "error", err)
			c.set(func(s *Status) { s.Last = err.Error() })
		}
		wait := q.wait(n)
		if !q.until.IsZero() {
			wait = min(wait, time.Until(q.until))
		}
		answer, again := c.await(ctx, q, wait)
		if answer != nil || ctx.Err() != nil {
			return answer
		}
		if again {
			n = -1 // the link has come back: as at first
		}
		c.set(func(s *Status) { s.Tries++ })
	}
	return nil
}

// await waits for an answer. again says that the link has come back.
func (c *Client) await(ctx context.Context, q question, wait time.Duration) (answer *dhcpv4.DHCPv4, again bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case <-timer.C:
			return nil, false
		case <-c.link:
			if q.until.IsZero() {
				return nil, true
			}
		case m := <-c.in:
			if m.TransactionID == q.m.TransactionID && q.fits(m) {
				return m, false
			}
		}
	}
}

// backoff is the wait after the nth time: 1, 2, 4 ... 64 seconds, each a tenth
// more or less so that boxes that were switched on together don't stay so.
func backoff(n int) time.Duration {
	d := time.Second << min(n, 6)
	return d - d/10 + rand.N(d/5)
}
