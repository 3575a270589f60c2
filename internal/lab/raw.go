package lab

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Raw sends and receives whole Ethernet frames on an interface. It sees what
// comes in, not what the host sends. Any goroutine may send, one at a time
// receives.
type Raw struct {
	port *port

	mu      sync.Mutex
	waiting []Frame // taken from the ring, not yet asked for
}

// Raw opens an interface of the host. Whoever calls it closes it.
func (h *Host) Raw(ifname string) (*Raw, error) {
	p, err := openPort(h, ifname, false)
	if err != nil {
		return nil, err
	}
	return &Raw{port: p}, nil
}

// Send sends a frame as it is, checksums and all.
func (r *Raw) Send(frame []byte) error {
	return r.SendVnet(make([]byte, vnetLen), frame)
}

// SendVnet sends a frame with a virtio_net_hdr, which may ask the kernel to
// cut it into segments or to complete its checksum.
func (r *Raw) SendVnet(vnet, frame []byte) error {
	if err := r.port.send(append(append([]byte(nil), vnet...), frame...)); err != nil {
		return fmt.Errorf("send a frame of %d bytes: %w", len(frame), err)
	}
	return nil
}

// Recv returns the next frame that came in.
func (r *Raw) Recv(ctx context.Context) (Frame, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// It fails only if closed, which receive reports.
	_ = r.port.file.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() {
		// Likewise.
		_ = r.port.file.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	for len(r.waiting) == 0 {
		if err := r.port.receive(r.keep); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return Frame{}, fmt.Errorf("receive a frame: %w", err)
		}
	}
	f := r.waiting[0]
	r.waiting = r.waiting[1:]
	return f, nil
}

func (r *Raw) keep(p packet) {
	r.waiting = append(r.waiting, Frame{
		Time: p.time, Outgoing: p.outgoing, Length: p.length, Data: append([]byte(nil), p.data...),
	})
}

// RecvSegment returns the next TCP segment that came in and matches; others
// are dropped. A nil match takes any.
func (r *Raw) RecvSegment(ctx context.Context, match func(Segment) bool) (Segment, error) {
	for {
		f, err := r.Recv(ctx)
		if err != nil {
			return Segment{}, err
		}
		if s, ok := f.Segment(); ok && (match == nil || match(s)) {
			return s, nil
		}
	}
}

// Close closes the socket. It may be called more than once.
func (r *Raw) Close() error { return r.port.close(nil) }
