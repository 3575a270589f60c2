package dhcp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Conn carries the messages. ReadFrom returns what arrives on port 68, broadcasts
// included; Broadcast sends to 255.255.255.255 port 67, from an address that may
// be unspecified; WriteTo sends to one server.
type Conn interface {
	ReadFrom(p []byte) (int, net.Addr, error)
	Broadcast(p []byte, from netip.Addr) error
	WriteTo(p []byte, to net.Addr) (int, error)
	Close() error
}

// Holder uses the address.
type Holder interface {
	// Take makes the address ours, or says why not: an error that is ErrInUse makes
	// the client decline it. A lease that is Kept was ours all along.
	Take(ctx context.Context, l Lease) error
	// Renewed says that the same address goes on with other times, and perhaps
	// other routes.
	Renewed(old, next Lease)
	// Lose gives the address up.
	Lose(l Lease, why string)
}

// Options say what a Client keeps, and for whom.
type Options struct {
	MAC      net.HardwareAddr
	Hostname string // told to the server; "" tells nothing
	Conn     Conn   // the client closes it
	Holder   Holder
	// Kept is a lease of before: the server is asked for it first. nil is none. Held
	// says that it is in use already.
	Kept *Lease
	Held bool
	Save func(*Lease) error // remembers it; nil is none
	Log  *slog.Logger       // nil discards
}

// State is where a Client is; the names are those of RFC 2131, 4.4.
type State string

// The states.
const (
	Rebooting  State = "rebooting"  // asking for the lease of before
	Selecting  State = "selecting"  // waiting for an offer
	Requesting State = "requesting" // has taken an offer
	Bound      State = "bound"
	Renewing   State = "renewing"  // past T1: asking the server
	Rebinding  State = "rebinding" // past T2: asking any server
	Pausing    State = "pausing"   // after what went wrong
)

// Status is a Client's state at a moment.
type Status struct {
	State State
	Lease *Lease // nil without an address
	Tries int    // messages without an answer
	Last  string // what went wrong last, ""
}

// Client keeps an address. It goes through the states of RFC 2131, figure 5:
//
//	rebooting --ACK--> bound --T1--> renewing --T2--> rebinding --end--> selecting
//	    |                ^ ^            |                 |
//	 NAK, silence        | +---ACK------+-----------------+
//	    v                |
//	selecting -offer-> requesting          a NAK leads to selecting from everywhere
//
// Without an answer a message is sent again after 1, 2, 4 ... 64 seconds, a tenth
// more or less. (RFC 2131, 4.1 begins with 4; a box that has just been switched
// on is waited for, and its link may not forward yet.)
type Client struct {
	o    Options
	in   chan *dhcpv4.DHCPv4
	link chan struct{} // the card has come back

	mu     sync.Mutex // guards the rest
	status Status
}

// New makes a client that does nothing before Run.
func New(o Options) *Client {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Save == nil {
		o.Save = func(*Lease) error { return nil }
	}
	c := &Client{o: o, in: make(chan *dhcpv4.DHCPv4, 16), link: make(chan struct{}, 1)}
	c.status.State = Selecting
	if o.Kept != nil {
		c.status.State = Rebooting
		if o.Held {
			c.status = Status{State: Bound, Lease: o.Kept}
		}
	}
	return c
}

// Status is the state at this moment.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// LinkUp says that the card's link has come back, maybe on another network: what
// waits is asked at once, and a lease that is held is asked for again (RFC 2131, 3.7).
func (c *Client) LinkUp() {
	select {
	case c.link <- struct{}{}:
	default: // one is enough
	}
}

const (
	// declinePause: "the client SHOULD wait a minimum of ten seconds before
	// restarting the configuration process" (RFC 2131, 3.1).
	declinePause = 10 * time.Second
	// refusedPause is the wait after a lease that is of no use here.
	refusedPause = 60 * time.Second
)

// Run keeps an address until ctx ends. The lease stays: nothing is released, so
// that the next run has the same address.
func (c *Client) Run(ctx context.Context) {
	var reading sync.WaitGroup
	reading.Go(c.read)
	defer reading.Wait()
	defer c.o.Conn.Close() // ends read; there is nothing to be said about a failure
	kept, held := c.o.Kept, c.o.Held
	for ctx.Err() == nil {
		if !held {
			kept, held = c.obtain(ctx, kept)
			continue
		}
		kept = c.keep(ctx, kept)
		held = kept != nil && !kept.Ended
	}
}

// read passes on what arrives for us. A flood is lost, not queued.
func (c *Client) read() {
	buf := make([]byte, 1500)
	for {
		n, _, err := c.o.Conn.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || m.OpCode != dhcpv4.OpcodeBootReply || m.ClientHWAddr.String() != c.o.MAC.String() {
			continue
		}
		select {
		case c.in <- m:
		default:
		}
	}
}

// obtain gets a lease and has it taken. After a failure, and a pause, it returns
// what to ask for next.
func (c *Client) obtain(ctx context.Context, kept *Lease) (lease *Lease, held bool) {
	if kept != nil && !kept.Ended {
		lease = c.reboot(ctx, kept)
	}
	if lease == nil && ctx.Err() == nil {
		lease = c.acquire(ctx, kept)
	}
	if lease == nil || !c.take(ctx, lease) {
		return nil, false
	}
	return lease, true
}

// take has a lease taken. After a failure it returns with a pause behind it.
func (c *Client) take(ctx context.Context, lease *Lease) (held bool) {
	err := c.o.Holder.Take(ctx, *lease)
	switch {
	case err == nil:
		c.bound(lease, nil)
		return true
	case ctx.Err() != nil:
	case errors.Is(err, ErrInUse):
		c.decline(lease)
		c.pause(ctx, declinePause, err)
	default:
		c.pause(ctx, refusedPause, err)
	}
	return false
}

// pause waits after what went wrong.
func (c *Client) pause(ctx context.Context, d time.Duration, err error) {
	c.o.Log.Error("an address from DHCP is not taken", "error", err, "again_in", d)
	c.set(func(s *Status) { s.State, s.Last = Pausing, err.Error() })
	sleep(ctx, d)
}

// sleep waits until ctx ends at most.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// set changes the status.
func (c *Client) set(f func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.status)
}

// bound notes a lease that is in use from now on.
func (c *Client) bound(l, before *Lease) {
	c.set(func(s *Status) { *s = Status{State: Bound, Lease: l} })
	if err := c.o.Save(l); err != nil {
		c.o.Log.Warn("the lease is not remembered: after a restart the address may be another", "error", err)
	}
	level := slog.LevelInfo
	if before != nil {
		level = slog.LevelDebug
	}
	c.o.Log.Log(context.Background(), level, "address from DHCP", "address", l.Prefix, "server", l.Server, "lasts", l.Lasts, "unconfirmed", l.Silent)
}

// lose gives the address up, and forgets the lease.
func (c *Client) lose(l *Lease, why string) *Lease {
	c.o.Log.Warn("the address from DHCP is lost", "address", l.Prefix, "because", why)
	c.o.Holder.Lose(*l, why)
	c.set(func(s *Status) { *s = Status{State: Selecting, Last: why} })
	if err := c.o.Save(nil); err != nil {
		c.o.Log.Warn("the lost lease is still remembered", "error", err)
	}
	ended := *l
	ended.Ended = true
	return &ended
}
