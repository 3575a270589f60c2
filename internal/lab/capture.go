package lab

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// captureLimit bounds the memory of a Capture.
const captureLimit = 256 << 20

// Capture records the frames of an interface, both ways.
type Capture struct {
	port  *port
	owned sync.WaitGroup

	mu      sync.Mutex
	frames  []Frame
	size    int
	missed  uint64
	changed chan struct{} // closed at the next frame
	ended   bool
}

// Frame is one frame as it was seen.
type Frame struct {
	Time     time.Time
	Outgoing bool
	Length   int // before it was cut to what fits
	Data     []byte
}

// Capture begins to record an interface of the host: what is sent after it
// returned is seen. Whoever calls it closes it.
func (h *Host) Capture(ifname string) (*Capture, error) {
	p, err := openPort(h, ifname, true)
	if err != nil {
		return nil, err
	}
	c := &Capture{port: p, changed: make(chan struct{})}
	c.owned.Go(c.record)
	return c, nil
}

// record runs until the port is closed.
func (c *Capture) record() {
	for c.port.receive(c.add) == nil {
		c.announce(false)
	}
	c.announce(true)
}

func (c *Capture) add(p packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size+len(p.data) > captureLimit {
		c.missed++
		return
	}
	c.size += len(p.data)
	c.frames = append(c.frames, Frame{
		Time: p.time, Outgoing: p.outgoing, Length: p.length, Data: append([]byte(nil), p.data...),
	})
}

func (c *Capture) announce(ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = ended
	close(c.changed)
	c.changed = make(chan struct{})
}

// catchUp bounds how long a reader waits for the recording, which never rests
// on a busy interface.
const catchUp = time.Second

// Frames returns all frames that have passed, of any protocol.
func (c *Capture) Frames() []Frame {
	for end := time.Now().Add(catchUp); !c.port.caughtUp() && time.Now().Before(end); {
		time.Sleep(100 * time.Microsecond)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frames[:len(c.frames):len(c.frames)]
}

// Segments returns all TCP segments that have passed.
func (c *Capture) Segments() []Segment {
	var all []Segment
	for _, f := range c.Frames() {
		if s, ok := f.Segment(); ok {
			all = append(all, s)
		}
	}
	return all
}

// Segment reads the frame as a TCP segment, if it is one.
func (f Frame) Segment() (Segment, bool) {
	s, ok := ParseSegment(f.Data)
	s.Time, s.Outgoing = f.Time, f.Outgoing
	return s, ok
}

// Missed returns how many frames are not recorded, for want of memory or time.
func (c *Capture) Missed() uint64 {
	drops := c.port.dropped()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.missed + drops
}

// Await returns the first segment, of those seen already or to come, for which
// match is true.
func (c *Capture) Await(ctx context.Context, match func(Segment) bool) (Segment, error) {
	for seen := 0; ; {
		c.mu.Lock()
		frames, changed, ended := c.frames, c.changed, c.ended
		c.mu.Unlock()
		for _, f := range frames[seen:] {
			if s, ok := f.Segment(); ok && match(s) {
				return s, nil
			}
		}
		seen = len(frames)
		if ended {
			return Segment{}, errors.New("await a segment: the capture is closed")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Segment{}, fmt.Errorf("await a segment, %d frames seen: %w", seen, context.Cause(ctx))
		}
	}
}

// Close ends the recording, after the frames that passed before it. They stay
// readable.
func (c *Capture) Close() error {
	err := c.port.close(c.add)
	c.owned.Wait()
	return err
}
