package carrytest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
)

// Lane is a way through the proxy: a host with clients and one with backends.
type Lane struct {
	Name            string
	Client, Backend *lab.Host
	Most            int // bytes a connection is given one way
	Slots           []Slot
}

// Slot is a place where the proxy listens for one client at a time, so that
// what arrives at its backend is known to be that client's.
type Slot struct {
	// V4 and V6 are where clients connect, and Backend is where the proxy does.
	V4, V6, Backend netip.AddrPort
}

// Stage plays schedules.
type Stage struct {
	Lanes []Lane
	// Patience is how long a connection may take; 0 is two minutes.
	Patience time.Duration
}

// missing is how long a backend is waited for whose client is gone: three SYNs
// of a proxy may be lost on the way.
const missing = 8 * time.Second

// Play plays schedules, as many at once as there are slots for them, and gives
// each result to done, one at a time. It returns when all are over, or with an error
// of its own.
func (st *Stage) Play(ctx context.Context, schedules []*Schedule, done func(*Result)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queues := make(map[group]chan *Schedule)
	for _, s := range schedules {
		g := groupOf(s)
		if queues[g] == nil {
			queues[g] = make(chan *Schedule, len(schedules))
		}
		queues[g] <- s
	}
	var all, hearing sync.WaitGroup
	var one sync.Mutex
	var opened []*slot
	defer func() { closeAll(opened, &hearing) }()
	for g, queue := range queues {
		close(queue)
		slots, err := st.open(g)
		opened = append(opened, slots...)
		if err != nil {
			return err
		}
		for _, s := range slots {
			hearing.Go(func() { s.hear(cancel) })
			all.Go(func() {
				for schedule := range queue {
					if ctx.Err() != nil {
						return
					}
					r := s.play(ctx, schedule, st.patience())
					one.Lock()
					done(r)
					one.Unlock()
				}
			})
		}
	}
	all.Wait()
	return context.Cause(ctx)
}

func (st *Stage) patience() time.Duration {
	if st.Patience > 0 {
		return st.Patience
	}
	return 2 * time.Minute
}

// group is what a slot is for.
type group struct {
	lane int
	toV6 bool
}

func groupOf(s *Schedule) group { return group{s.Lane, s.ToV6} }

// open listens at the backends of a group's slots.
func (st *Stage) open(g group) ([]*slot, error) {
	lane := &st.Lanes[g.lane]
	var slots []*slot
	for _, at := range lane.Slots {
		if at.Backend.Addr().Is6() != g.toV6 {
			continue
		}
		l, err := listen(lane.Backend, at.Backend)
		if err != nil {
			return slots, err
		}
		slots = append(slots, &slot{Slot: at, lane: lane, listener: l})
	}
	if len(slots) == 0 {
		return nil, fmt.Errorf("lane %s has no slot for such backends", lane.Name)
	}
	return slots, nil
}

func closeAll(slots []*slot, hearing *sync.WaitGroup) {
	for _, s := range slots {
		// Nothing comes of an error: all was seen.
		_ = s.listener.close()
	}
	hearing.Wait()
}

// slot plays one schedule after the other.
type slot struct {
	Slot
	lane     *Lane
	listener *socket

	narrow bool // the listener's buffers were set once

	mu      sync.Mutex
	arrived chan *socket // nil while no schedule expects a backend
}

// hear accepts what the proxy connects. A connection that nobody expects is the
// end of everything: it may be one that comes too late, or twice.
func (s *slot) hear(fail func(error)) {
	for {
		c, err := s.listener.accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		to := s.arrived
		s.arrived = nil
		s.mu.Unlock()
		if to == nil {
			fail(errors.Join(fmt.Errorf("the proxy made a connection to %s that nobody expects", s.Backend), c.close()))
			return
		}
		to <- c
	}
}

// expect says where the next connection is to go.
func (s *slot) expect(to chan *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrived = to
}

// play plays one schedule.
func (s *slot) play(ctx context.Context, schedule *Schedule, patience time.Duration) *Result {
	r := &Result{Schedule: schedule, Slot: s.Slot}
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not over after %v", patience))
	defer cancel()
	up := stream(mix(schedule.Seed<<20 + uint64(schedule.Index)<<1))
	down := up + 1<<60
	if err := s.size(schedule.Backend.Buffer); err != nil {
		r.Fault = err
		return r
	}
	arrived := make(chan *socket, 1)
	s.expect(arrived)
	to := s.V4
	if schedule.FromV6 {
		to = s.V6
	}
	gone := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		defer close(gone)
		sock, err := connect(s.lane.Client, to, &schedule.Client)
		if err != nil {
			r.Client = missed(err)
			return
		}
		if schedule.Client.Open != WithSYN {
			stop := sock.until(ctx)
			err = sock.connected()
			stop()
		}
		if err != nil {
			r.Client = missed(errors.Join(err, sock.close()))
			return
		}
		r.Client = (&party{sock: sock, script: &schedule.Client, out: up, in: down}).play(ctx)
	})
	both.Go(func() {
		if sock := await(ctx, arrived, gone); sock != nil {
			err := sock.control(func(fd int) error { return setOptions(fd, &schedule.Backend) })
			r.Backend = (&party{sock: sock, script: &schedule.Backend, out: down, in: up}).play(ctx)
			r.Backend.Err = errors.Join(r.Backend.Err, err)
		}
	})
	both.Wait()
	s.expect(nil)
	select {
	case late := <-arrived:
		// Too late to be compared, and the result says that there was none.
		_ = late.reset()
	default:
	}
	r.Took = time.Since(began)
	r.Fault = schedule.judge(r.Client, r.Backend)
	return r
}

// size sets the buffers that the next backend begins with: one that makes them
// smaller later has promised more than it takes. The kernel's own choice cannot be
// had back.
func (s *slot) size(buffer int) error {
	if buffer == 0 && s.narrow {
		buffer = 128 << 10
	}
	if buffer == 0 {
		return nil
	}
	s.narrow = true
	return s.listener.control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	})
}

// missed is what a client sees that could not connect.
func missed(err error) Seen {
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return Seen{Present: true, Reset: true}
	}
	return Seen{Present: true, Err: err}
}

// await waits for the backend's side. It returns nil if that stays away though
// its client is gone.
func await(ctx context.Context, arrived <-chan *socket, gone <-chan struct{}) *socket {
	var late <-chan time.Time
	for {
		select {
		case sock := <-arrived:
			return sock
		case <-ctx.Done():
			return nil
		case <-late:
			return nil
		case <-gone:
			gone, late = nil, time.After(missing)
		}
	}
}
