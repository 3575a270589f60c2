package lab

import (
	"errors"
	"fmt"
	"sync"
)

// Direction is one of the two ways of an ImpairedLink.
type Direction int

// The directions of an ImpairedLink, by the order of WireImpaired's hosts.
const (
	AToB Direction = iota
	BToA
)

// LinkStats counts the frames of both directions of an ImpairedLink.
type LinkStats struct{ AToB, BToA LineStats }

// ImpairedLink is a wire between two hosts that treats frames badly, on
// purpose and reproducibly.
//
//	a: aIf =veth= x [ line A to B ] y =veth= bIf :b
//	                [ line B to A ]
//
// x and y are in a namespace of their own, where the kernel has no address and
// says nothing. Whoever makes it closes it; then the wire is gone.
type ImpairedLink struct {
	middle *Host
	x, y   *port
	lines  [2]*line
	owned  sync.WaitGroup

	closing sync.Once
}

// wireMTU of the two ends in the middle lets a test raise the MTU of its own
// ends to 9000.
const wireMTU = 9200

// WireImpaired connects two hosts by a wire with faults and sets both ends up.
// The offloads of both ends are off, so that its frames are those of a real
// wire. Use Set or SetDirection for other faults one way.
func WireImpaired(a *Host, aIf string, b *Host, bIf string, im Impairment) (*ImpairedLink, error) {
	l, err := newImpairedLink(a, aIf, b, bIf, im)
	if err != nil {
		return nil, fmt.Errorf("wire %s to %s with faults: %w", a.name, b.name, err)
	}
	for i := range l.lines {
		l.owned.Go(l.lines[i].take)
		l.owned.Go(l.lines[i].deliver)
	}
	return l, nil
}

func newImpairedLink(a *Host, aIf string, b *Host, bIf string, im Impairment) (*ImpairedLink, error) {
	middle, err := NewHost("the wire " + a.name + "-" + b.name)
	if err != nil {
		return nil, err
	}
	l := &ImpairedLink{middle: middle}
	if l.x, err = l.end("x", a, aIf); err == nil {
		l.y, err = l.end("y", b, bIf)
	}
	if err != nil {
		return nil, errors.Join(err, l.dismantle())
	}
	l.lines[AToB] = newLine(l.x, l.y, AToB, im)
	l.lines[BToA] = newLine(l.y, l.x, BToA, im)
	return l, nil
}

// end runs a veth pair from the middle to a host and opens its near end.
func (l *ImpairedLink) end(near string, h *Host, far string) (*port, error) {
	for _, scope := range []string{"all", "default"} {
		// A kernel without IPv6 has no such key, and no need of it.
		_ = l.middle.Sysctl("net.ipv6.conf."+scope+".disable_ipv6", "1")
	}
	if err := Wire(l.middle, near, h, far); err != nil {
		return nil, err
	}
	if err := l.middle.SetMTU(near, wireMTU); err != nil {
		return nil, err
	}
	for _, o := range []struct {
		h      *Host
		ifname string
	}{{l.middle, near}, {h, far}} {
		if err := o.h.Offload(o.ifname, false); err != nil {
			return nil, err
		}
	}
	return openPort(l.middle, near, false)
}

// Set replaces what the link does to frames, both ways, and begins the
// sequence of decisions anew.
func (l *ImpairedLink) Set(im Impairment) {
	l.SetDirection(AToB, im)
	l.SetDirection(BToA, im)
}

// SetDirection is Set for one direction.
func (l *ImpairedLink) SetDirection(d Direction, im Impairment) { l.lines[d].set(im) }

// Cut makes the link eat every frame, those on their way too, while both ends
// still see a carrier.
func (l *ImpairedLink) Cut() {
	l.CutDirection(AToB)
	l.CutDirection(BToA)
}

// CutDirection is Cut for one direction.
func (l *ImpairedLink) CutDirection(d Direction) { l.lines[d].setCut(true) }

// Mend undoes Cut.
func (l *ImpairedLink) Mend() {
	l.lines[AToB].setCut(false)
	l.lines[BToA].setCut(false)
}

// Stats returns the counters as they are now.
func (l *ImpairedLink) Stats() LinkStats {
	return LinkStats{AToB: l.lines[AToB].snapshot(), BToA: l.lines[BToA].snapshot()}
}

// Close removes the link with the interfaces at its ends, and waits for its
// goroutines.
func (l *ImpairedLink) Close() error {
	var err error
	l.closing.Do(func() {
		close(l.lines[AToB].stop)
		close(l.lines[BToA].stop)
		err = l.dismantle()
		l.owned.Wait()
	})
	return err
}

func (l *ImpairedLink) dismantle() error {
	var errs []error
	for near, p := range map[string]*port{"x": l.x, "y": l.y} {
		if p == nil {
			continue
		}
		errs = append(errs, p.close(nil))
		// The host at the other end may have gone, and the wire with it.
		_ = l.middle.RemoveLink(near)
	}
	return errors.Join(append(errs, l.middle.Close())...)
}
