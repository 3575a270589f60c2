package timesync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/beevik/ntp"
)

// Clock is the machine's. Its methods need CAP_SYS_TIME.
type Clock interface {
	Step(by time.Duration) error // at once
	Slew(by time.Duration) error // by running faster or slower for a while
}

// Options say whom a Keeper asks, and what it does about the answer.
type Options struct {
	Servers func() []netip.AddrPort // at this moment
	Dial    func(netip.AddrPort) (net.Conn, error)
	Clock   Clock     // nil only tells the offset
	Built   time.Time // of this program: no time is earlier. Zero is not known
	Log     *slog.Logger
}

// Status is what a Keeper knows.
type Status struct {
	Server  netip.AddrPort // whose answer it is; invalid before the first
	Offset  time.Duration  // of the server's clock against ours, at At
	RTT     time.Duration
	Stratum int
	At      time.Time // of the last good answer
	Sets    bool      // it may set the clock
	Steps   int
	Error   string // what went wrong last, ""
}

// Keeper asks again and again.
type Keeper struct {
	o    Options
	wake chan struct{}

	mu     sync.Mutex // guards status
	status Status
}

// New makes a keeper that does nothing before Run.
func New(o Options) *Keeper {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{o: o, wake: make(chan struct{}, 1)}
	k.status.Sets = o.Clock != nil
	return k
}

const (
	firstPause  = 2 * time.Second // without an answer, doubled up to the next
	shortPause  = 64 * time.Second
	longPause   = 1024 * time.Second // when the clock is right
	right       = 10 * time.Millisecond
	stepFrom    = 128 * time.Millisecond // RFC 5905, 11.3: STEPT
	mostServers = 4
	askWithin   = 3 * time.Second
)

// Status is what is known at this moment.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// Wake makes it ask now: there may be another server, or a way to it.
func (k *Keeper) Wake() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run asks until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	pause, said := firstPause, false
	for {
		offset, err := k.once(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			k.fail(err, said)
			pause = min(pause*2, shortPause)
		case offset.Abs() > right:
			pause = shortPause
		default:
			pause = max(shortPause, min(pause*2, longPause))
		}
		said = err != nil
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-k.wake:
			timer.Stop()
			said = false // what is wrong now may be something else
		}
	}
}

// fail notes what went wrong. It is said once, until the time is known or Wake:
// the ports and times in its text change from question to question.
func (k *Keeper) fail(err error, said bool) {
	level := slog.LevelWarn
	if said {
		level = slog.LevelDebug
	}
	k.o.Log.Log(context.Background(), level, "the time is not known", "error", err)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Error = err.Error()
}

// answer is one server's.
type answer struct {
	from netip.AddrPort
	*ntp.Response
}

var errNoServer = errors.New("no NTP server is known: name some in time.servers, or have the DHCP server do it")

// once asks all servers and goes by the one in the middle.
func (k *Keeper) once(ctx context.Context) (time.Duration, error) {
	servers := k.o.Servers()
	if len(servers) == 0 {
		return 0, errNoServer
	}
	var good []answer
	var errs []error
	for _, s := range servers[:min(len(servers), mostServers)] {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		r, err := ntp.QueryWithOptions(s.String(), ntp.QueryOptions{
			Timeout: askWithin, GetSystemTime: time.Now, Dialer: func(_, _ string) (net.Conn, error) { return k.o.Dial(s) },
		})
		if err == nil {
			err = r.Validate()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s, err))
			continue
		}
		good = append(good, answer{s, r})
	}
	if len(good) == 0 {
		return 0, errors.Join(errs...)
	}
	slices.SortFunc(good, func(a, b answer) int { return cmp.Compare(a.ClockOffset, b.ClockOffset) })
	return k.believe(good[len(good)/2])
}

// believe notes an answer, and sets the clock by it.
func (k *Keeper) believe(a answer) (time.Duration, error) {
	now := time.Now()
	k.mu.Lock()
	first := k.status.At.IsZero()
	k.status.Server, k.status.Offset, k.status.RTT, k.status.Stratum = a.from, a.ClockOffset, a.RTT, int(a.Stratum)
	k.status.At, k.status.Error = now, ""
	k.mu.Unlock()
	if first {
		k.o.Log.Info("the time is known", "server", a.from, "offset", a.ClockOffset, "stratum", a.Stratum)
	}
	if k.o.Clock == nil {
		return a.ClockOffset, nil
	}
	if to := now.Round(0).Add(a.ClockOffset); to.Before(k.o.Built) {
		return 0, fmt.Errorf("%s says it is %s, before this program was made (%s): that is not believed", a.from, to.UTC().Format(time.DateTime), k.o.Built.UTC().Format(time.DateTime))
	}
	if a.ClockOffset.Abs() < stepFrom {
		return a.ClockOffset, k.o.Clock.Slew(a.ClockOffset)
	}
	if err := k.o.Clock.Step(a.ClockOffset); err != nil {
		return 0, err
	}
	k.mu.Lock()
	k.status.Steps++
	k.mu.Unlock()
	k.o.Log.Warn("the clock was wrong and is set", "by", a.ClockOffset, "server", a.from)
	return a.ClockOffset, nil
}
