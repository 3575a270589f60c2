package carrytest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
)

// Crowd is very many connections of kernel peers, which cost their sockets and
// nothing more: one thread looks after all. It is for one goroutine. Whoever
// opens it closes it.
type Crowd struct {
	poll    int
	members []member // events carry their index
	waiting int      // for what is being done
	lost    int
	why     error // of the first that was lost
}

// member is one connection.
type member struct {
	fd    int
	state crowdState
	word  uint64 // what it has asked
	got   [8]byte
	n     int // bytes of got
}

type crowdState uint8

const (
	connecting crowdState = iota
	quiet
	asking
	lost
)

// Origin is a host from which a share of a crowd connects to an address.
type Origin struct {
	Host *lab.Host
	To   netip.AddrPort
}

// windowOf is how many handshakes are under way at once.
const windowOf = 256

// OpenCrowd makes n connections, the origins in turn. On an error none stays open.
func OpenCrowd(ctx context.Context, origins []Origin, n int) (*Crowd, error) {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open a crowd: %w", err)
	}
	c := &Crowd{poll: poll}
	for turn := 0; len(c.members) < n && err == nil; turn++ {
		err = c.add(ctx, origins[turn%len(origins)], min(windowOf, n-len(c.members)))
	}
	if err == nil && c.lost > 0 {
		err = fmt.Errorf("%d of %d were lost, the first: %w", c.lost, n, c.why)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a crowd, after %d connections: %w", len(c.members), err), c.Close())
	}
	return c, nil
}

// add makes n more and waits for all of them.
func (c *Crowd) add(ctx context.Context, from Origin, n int) error {
	err := from.Host.Do(func() error {
		for range n {
			if err := c.begin(from.To); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.settle(ctx)
}

func (c *Crowd) begin(to netip.AddrPort) error {
	fd, err := startConnect(to, &Script{NoDelay: true})
	if err != nil {
		return err
	}
	c.members = append(c.members, member{fd: fd})
	c.waiting++
	// Their probes every two seconds would be all that there is to see.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET, Fd: int32(len(c.members) - 1)}
	return unix.EpollCtl(c.poll, unix.EPOLL_CTL_ADD, fd, &ev)
}

// settle hears events until nothing is waited for.
func (c *Crowd) settle(ctx context.Context) error {
	for c.waiting > 0 {
		if err := c.hear(100 * time.Millisecond); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d connections are still waited for: %w", c.waiting, context.Cause(ctx))
		}
	}
	return nil
}

// hear takes what the kernel tells within a time.
func (c *Crowd) hear(within time.Duration) error {
	var events [256]unix.EpollEvent
	n, err := unix.EpollWait(c.poll, events[:], int(within.Milliseconds()))
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("wait for a crowd: %w", err)
	}
	for _, ev := range events[:max(n, 0)] {
		c.step(&c.members[ev.Fd], ev.Events)
	}
	return nil
}

// step goes on with one member.
func (c *Crowd) step(m *member, events uint32) {
	if m.state == lost {
		return
	}
	if m.state == connecting {
		if events&(unix.EPOLLERR|unix.EPOLLHUP) == 0 && events&unix.EPOLLOUT == 0 {
			return
		}
		if err := socketError(m.fd); err != nil {
			c.lose(m, fmt.Errorf("connect: %w", err))
			return
		}
		m.state = quiet
		c.waiting--
	}
	for {
		n, err := unix.Read(m.fd, m.got[m.n:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case err != nil:
			c.lose(m, fmt.Errorf("read: %w", err))
			return
		case n == 0:
			c.lose(m, errors.New("read: a FIN that nobody expects"))
			return
		case m.state != asking:
			c.lose(m, errors.New("read: bytes that nobody asked for"))
			return
		}
		if m.n += n; m.n < len(m.got) {
			continue
		}
		m.n = 0
		if got := binary.LittleEndian.Uint64(m.got[:]); got != m.word {
			c.lose(m, fmt.Errorf("asked %#x, got %#x", m.word, got))
			return
		}
		m.state = quiet
		c.waiting--
	}
}

func socketError(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// lose gives a member up.
func (c *Crowd) lose(m *member, err error) {
	if m.state == connecting || m.state == asking {
		c.waiting--
	}
	m.state = lost
	c.lost++
	if c.why == nil {
		c.why = err
	}
}

// Ask lets n members, chosen by r, send a word each and waits until the same
// comes back to all of them.
func (c *Crowd) Ask(ctx context.Context, r *rand.Rand, n int) error {
	for range n {
		m := &c.members[r.IntN(len(c.members))]
		if m.state != quiet {
			continue
		}
		m.word, m.state = r.Uint64(), asking
		c.waiting++
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], m.word)
		if _, err := unix.Write(m.fd, b[:]); err != nil {
			c.lose(m, fmt.Errorf("write: %w", err))
		}
		if c.waiting >= windowOf {
			if err := c.settle(ctx); err != nil {
				return err
			}
		}
	}
	return c.settle(ctx)
}

// Lost returns how many were lost until now, and why the first was.
func (c *Crowd) Lost() (int, error) {
	for {
		before := c.lost
		// It fails only if the crowd is closed.
		if err := c.hear(0); err != nil {
			return c.lost, err
		}
		if c.lost == before {
			return c.lost, c.why
		}
	}
}

// Close closes all connections.
func (c *Crowd) Close() error {
	var errs []error
	for _, m := range c.members {
		errs = append(errs, unix.Close(m.fd))
	}
	c.members = nil
	return errors.Join(append(errs, unix.Close(c.poll))...)
}
