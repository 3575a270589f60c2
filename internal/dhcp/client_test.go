package dhcp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// fake is a link with a server on it, in the time of a synctest bubble, and who
// holds the address.
type fake struct {
	t      *testing.T
	begun  time.Time
	answer func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 // nil is silence
	in     chan []byte
	done   chan struct{}
	once   sync.Once

	mu    sync.Mutex
	sent  []sent
	taken []string // "take 192.0.2.50/24", "lose ..."
	takes error
}

type sent struct {
	at      time.Duration
	kind    dhcpv4.MessageType
	unicast bool
	m       *dhcpv4.DHCPv4
}

var (
	card   = net.HardwareAddr{2, 0, 0, 0, 0, 7}
	server = net.IPv4(192, 0, 2, 2).To4()
)

func newFake(t *testing.T) *fake {
	return &fake{t: t, begun: time.Now(), in: make(chan []byte, 16), done: make(chan struct{})}
}

func (f *fake) ReadFrom(p []byte) (int, net.Addr, error) {
	select {
	case b := <-f.in:
		return copy(p, b), &net.UDPAddr{IP: server, Port: 67}, nil
	case <-f.done:
		return 0, nil, net.ErrClosed
	}
}

func (f *fake) Broadcast(p []byte, _ netip.Addr) error { return f.hear(p, false) }

func (f *fake) WriteTo(p []byte, _ net.Addr) (int, error) { return len(p), f.hear(p, true) }

func (f *fake) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

func (f *fake) hear(p []byte, unicast bool) error {
	m, err := dhcpv4.FromBytes(p)
	if err != nil {
		f.t.Error(err)
		return err
	}
	f.mu.Lock()
	f.sent = append(f.sent, sent{time.Since(f.begun), m.MessageType(), unicast, m})
	reply := f.answer
	f.mu.Unlock()
	if answer := reply(m); answer != nil {
		f.in <- answer.ToBytes()
	}
	return nil
}

// heard is what was sent, from a message on, and what was taken and lost so far.
func (f *fake) heard(from int) ([]sent, []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sent[from:]), slices.Clone(f.taken)
}

func (f *fake) Take(_ context.Context, l Lease) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken = append(f.taken, "take "+l.Prefix.String())
	return f.takes
}

func (f *fake) Renewed(Lease, Lease) {}

func (f *fake) Lose(l Lease, _ string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken = append(f.taken, "lose "+l.Prefix.String())
}

// run runs a client for a time.
func (f *fake) run(o Options, d time.Duration) *Client {
	o.MAC, o.Conn, o.Holder = card, f, f
	c := New(o)
	ctx, cancel := context.WithTimeout(f.t.Context(), d)
	defer cancel()
	c.Run(ctx)
	return c
}

// reply answers with an address for a time.
func reply(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, addr string, lasts time.Duration, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	p := netip.MustParsePrefix(addr)
	all := append([]dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)),
		dhcpv4.WithYourIP(p.Addr().AsSlice()), dhcpv4.WithNetmask(net.CIDRMask(p.Bits(), 32)),
		dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(lasts))}, more...)
	a, err := dhcpv4.NewReplyFromRequest(m, all...)
	if err != nil {
		panic(err)
	}
	return a
}

// serve gives an address as long as it lasts.
func serve(addr string, lasts time.Duration) func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	return func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		kind := dhcpv4.MessageTypeAck
		if m.MessageType() == dhcpv4.MessageTypeDiscover {
			kind = dhcpv4.MessageTypeOffer
		}
		return reply(m, kind, addr, lasts)
	}
}

func near(got, want time.Duration) bool { return got >= want*9/10 && got <= want*11/10 }

func TestADiscoveryIsRepeatedEverMoreSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.answer = func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4 { return nil }
		c := f.run(Options{}, 5*time.Minute)
		var gaps []time.Duration
		for i, s := range f.sent[1:] {
			gaps = append(gaps, s.at-f.sent[i].at)
		}
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 64} {
			if i >= len(gaps) || !near(gaps[i], want*time.Second) {
				t.Fatalf("got gaps %v, want 1 2 4 8 16 32 64 64 s, each a tenth more or less", gaps)
			}
		}
		if last := f.sent[len(f.sent)-1].m; last.NumSeconds < 127*9/10 || last.IsUnicast() {
			t.Errorf("got %d seconds and flags %#x in the last, want the time since the first and the broadcast flag", last.NumSeconds, last.Flags)
		}
		if s := c.Status(); s.State != Selecting || s.Lease != nil || s.Tries < 8 {
			t.Errorf("got status %+v, want selecting after 8 tries", s)
		}
	})
}

func TestALeaseIsAskedForAtT1AndOfAnybodyAtT2AndThenLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		give := serve("192.0.2.50/24", 1000*time.Second)
		f.answer = func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
			if len(f.sent) > 2 {
				return nil // the server goes after the first lease
			}
			return give(m)
		}
		f.run(Options{}, 1010*time.Second)
		var renews, rebinds []time.Duration
		for _, s := range f.sent[2:] {
			switch {
			case s.kind != dhcpv4.MessageTypeRequest:
			case s.unicast:
				renews = append(renews, s.at.Round(time.Second))
			default:
				rebinds = append(rebinds, s.at.Round(time.Second))
			}
		}
		// Half of what remains to T2 (875 s), at least an eighth of the whole.
		if len(renews) < 3 || renews[0] != 500*time.Second || renews[1] != 688*time.Second || len(renews) > 9 {
			t.Errorf("got renewals at %v, want them at 500 s, 688 s (half of the rest) and so on", renews)
		}
		if len(rebinds) == 0 || rebinds[0] != 875*time.Second || rebinds[len(rebinds)-1] >= 1000*time.Second {
			t.Errorf("got rebinding at %v, want some from 875 s and before 1000 s", rebinds)
		}
		if want := []string{"take 192.0.2.50/24", "lose 192.0.2.50/24"}; !slices.Equal(f.taken, want) {
			t.Errorf("got %v, want %v", f.taken, want)
		}
		if last := f.sent[len(f.sent)-1]; last.kind != dhcpv4.MessageTypeDiscover || !last.m.RequestedIPAddress().Equal(net.IPv4(192, 0, 2, 50)) {
			t.Errorf("got %s in the end, want a discovery that prefers the address of before", last.m.Summary())
		}
	})
}

func TestALeaseOfBeforeThatIsRefusedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		fresh := serve("192.0.2.60/24", time.Hour)
		f.answer = func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
			if m.MessageType() == dhcpv4.MessageTypeRequest && m.ServerIdentifier() == nil {
				return reply(m, dhcpv4.MessageTypeNak, "192.0.2.50/24", time.Hour)
			}
			return fresh(m)
		}
		var saved []*Lease
		kept := &Lease{Prefix: netip.MustParsePrefix("192.0.2.50/24"), Acquired: time.Now(), Lasts: time.Hour, Renew: time.Hour / 2, Rebind: time.Hour / 8 * 7}
		c := f.run(Options{Kept: kept, Save: func(l *Lease) error { saved = append(saved, l); return nil }}, time.Minute)
		if want := []string{"take 192.0.2.60/24"}; !slices.Equal(f.taken, want) {
			t.Errorf("got %v, want %v", f.taken, want)
		}
		if s := c.Status(); s.State != Bound || s.Lease.Prefix.String() != "192.0.2.60/24" {
			t.Errorf("got %+v, want bound to 192.0.2.60", s)
		}
		if len(saved) != 1 || saved[0].Prefix.String() != "192.0.2.60/24" {
			t.Errorf("got %v saved, want the new lease", saved)
		}
	})
}

func TestALeaseOfBeforeIsUsedWithoutAServerForAsLongAsItLasts(t *testing.T) {
	for name, c := range map[string]struct {
		age   time.Duration
		taken []string
	}{
		"it lasts":         {time.Minute, []string{"take 192.0.2.50/24"}},
		"its time is over": {2 * time.Hour, nil},
		"of the future":    {-time.Hour, nil}, // the clock was wrong then or is now
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.answer = func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4 { return nil }
				kept := &Lease{Prefix: netip.MustParsePrefix("192.0.2.50/24"), Acquired: time.Now().Add(-c.age), Lasts: time.Hour, Renew: time.Hour / 2, Rebind: time.Hour / 8 * 7}
				f.run(Options{Kept: kept}, time.Minute)
				if !slices.Equal(f.taken, c.taken) {
					t.Errorf("got %v, want %v", f.taken, c.taken)
				}
			})
		})
	}
}

func TestAnAddressInUseIsDeclinedAndAskedForAgainAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.answer = serve("192.0.2.50/24", time.Hour)
		f.takes = errors.Join(ErrInUse)
		f.run(Options{}, 15*time.Second)
		var kinds []dhcpv4.MessageType
		var at []time.Duration
		for _, s := range f.sent {
			kinds, at = append(kinds, s.kind), append(at, s.at)
		}
		want := []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeDecline,
			dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeDecline}
		if !slices.Equal(kinds, want) || at[3]-at[2] != declinePause {
			t.Errorf("got %v at %v, want %v with 10 s after the decline", kinds, at, want)
		}
	})
}

func TestTheLinkThatComesBackIsAskedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.answer = serve("192.0.2.50/24", time.Hour)
		c := New(Options{MAC: card, Conn: f, Holder: f})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx) }()
		time.Sleep(time.Minute) // of the bubble
		synctest.Wait()
		before := len(f.sent)
		f.answer = serve("192.0.2.60/24", time.Hour) // another network
		c.LinkUp()
		synctest.Wait()
		if got := f.sent[before:]; len(got) != 1 || got[0].at != time.Minute || got[0].m.ServerIdentifier() != nil {
			t.Errorf("got %d messages, want one that asks for the lease of before", len(got))
		}
		if want := []string{"take 192.0.2.50/24", "lose 192.0.2.50/24", "take 192.0.2.60/24"}; !slices.Equal(f.taken, want) {
			t.Errorf("got %v, want %v", f.taken, want)
		}
		cancel()
		<-done
	})
}

func TestAnAddressInThePlaceOfAnotherIsDeclinedIfAHostHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.answer = serve("192.0.2.50/24", time.Hour)
		c := New(Options{MAC: card, Conn: f, Holder: f})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx) }()
		time.Sleep(time.Minute) // of the bubble
		synctest.Wait()
		before, _ := f.heard(0)
		f.mu.Lock()
		f.answer, f.takes = serve("192.0.2.60/24", time.Hour), ErrInUse
		f.mu.Unlock()
		c.LinkUp()
		time.Sleep(declinePause - time.Second)
		synctest.Wait()
		got, taken := f.heard(len(before))
		if len(got) != 2 || got[1].kind != dhcpv4.MessageTypeDecline || !got[1].m.RequestedIPAddress().Equal(net.IPv4(192, 0, 2, 60)) {
			t.Errorf("got messages %+v, want a request and a decline of 192.0.2.60, and ten seconds of silence", got)
		}
		if want := []string{"take 192.0.2.50/24", "lose 192.0.2.50/24", "take 192.0.2.60/24"}; !slices.Equal(taken, want) {
			t.Errorf("got %v, want %v", taken, want)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got, _ := f.heard(len(before)); len(got) < 3 || got[2].kind != dhcpv4.MessageTypeDiscover {
			t.Errorf("got messages %+v, want a discovery after the pause", got)
		}
		cancel()
		<-done
	})
}

func ack(more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m, err := dhcpv4.NewDiscovery(card)
	if err != nil {
		panic(err)
	}
	return reply(m, dhcpv4.MessageTypeAck, "192.0.2.50/24", time.Hour, more...)
}

func TestWhatAServerSays(t *testing.T) {
	router := dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(192, 0, 2, 1), net.IPv4(192, 0, 2, 3)))
	_, ten, err := net.ParseCIDR("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	classless := dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(&dhcpv4.Route{Dest: ten, Router: net.IPv4(192, 0, 2, 9)}))
	for name, c := range map[string]struct {
		m    *dhcpv4.DHCPv4
		want func(*Lease) bool
	}{
		"the first router is the default route": {ack(router), func(l *Lease) bool {
			return len(l.Routes) == 1 && l.Routes[0].To.Bits() == 0 && l.Routes[0].Via == netip.MustParseAddr("192.0.2.1")
		}},
		"classless routes put the router aside": {ack(router, classless), func(l *Lease) bool {
			return len(l.Routes) == 1 && l.Routes[0].To.String() == "10.0.0.0/8" && l.Routes[0].Via == netip.MustParseAddr("192.0.2.9")
		}},
		"half and seven eighths of the time": {ack(), func(l *Lease) bool {
			return l.Renew == 30*time.Minute && l.Rebind == time.Hour/8*7
		}},
		"absurd times are not believed": {ack(dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(2 * time.Hour))), func(l *Lease) bool {
			return l.Renew == 30*time.Minute
		}},
		"for ever":              {ack(dhcpv4.WithLeaseTime(0xffffffff)), func(l *Lease) bool { return l.Lasts == Forever && l.Valid(l.Acquired.Add(1e6*time.Hour)) }},
		"a name for a terminal": {ack(dhcpv4.WithOption(dhcpv4.OptHostName("a\x1b[2Jb"))), func(l *Lease) bool { return l.Hostname == "" }},
		"no multicast":          {ack(dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1))), nil},
		"no time":               {ack(dhcpv4.WithLeaseTime(0)), nil},
	} {
		l, err := leaseOf(c.m, time.Unix(1e9, 0), nil)
		switch {
		case c.want == nil && err == nil:
			t.Errorf("%s: got %+v, want an error", name, l)
		case c.want != nil && (err != nil || !c.want(l)):
			t.Errorf("%s: got %+v and error %v", name, l, err)
		}
	}
}

// FuzzAnswer: whatever a server says, what is taken of it can be used.
func FuzzAnswer(f *testing.F) {
	f.Add(ack().ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := leaseOf(m, time.Unix(1e9, 0), nil)
		if err != nil {
			return
		}
		if !usable(l.Prefix.Addr()) || l.Prefix.Bits() < 1 || l.Renew < time.Second || l.Renew > l.Rebind || l.Rebind > l.Lasts || len(l.Routes) > mostRoutes {
			t.Errorf("got %+v of % x", l, b)
		}
		for _, r := range l.Routes {
			if !r.To.IsValid() || r.Via.IsValid() && !usable(r.Via) {
				t.Errorf("got route %+v of % x", r, b)
			}
		}
	})
}

func TestALeaseKeepsItsAgeFromOneProcessToAnother(t *testing.T) {
	now := time.Now()
	l := &Lease{Acquired: now.Add(-10 * time.Minute), Lasts: time.Hour}
	told := l.Told(now)
	text, err := told.Acquired.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	read := *told
	if err := read.Acquired.UnmarshalText(text); err != nil {
		t.Fatal(err)
	}
	heard := read.Heard(now.Add(time.Minute))
	if got := heard.left(now.Add(time.Minute), heard.Lasts); got != 49*time.Minute {
		t.Errorf("got %v left, want 49m", got)
	}
}
