package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/state"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// groupSize is how many connections are written together. A group is of one
// goroutine, and what the package remembers while it writes stays small.
const groupSize = 64

// groups cuts what is written into parts with no memory in common: the package
// writes a slice to the end of its array.
func (r *root) groups() (all []*root) {
	for i := 0; i < len(r.endpoints); i += groupSize {
		end := min(i+groupSize, len(r.endpoints))
		g := &root{endpoints: slices.Clone(r.endpoints[i:end])}
		if i < len(r.queues) {
			g.queues = slices.Clone(r.queues[i:min(end, len(r.queues))])
		}
		all = append(all, g)
	}
	return all
}

// writeAll writes all groups, in their order.
func (l *links) writeAll(w io.Writer, r *root) error {
	groups := r.groups()
	parts, errs := make([]chan *bytes.Buffer, len(groups)), make([]error, len(groups))
	for i := range parts {
		parts[i] = make(chan *bytes.Buffer, 1)
	}
	wait := parallel(len(groups), func(i int) {
		b := new(bytes.Buffer)
		errs[i] = l.write(b, groups[i])
		parts[i] <- b
	})
	var failed error
	for i := range groups {
		b := <-parts[i]
		if failed = errors.Join(failed, errs[i]); failed != nil {
			continue
		}
		_, failed = w.Write(b.Bytes())
	}
	wait()
	return failed
}

// parallel calls do with 0 to n-1, on as many goroutines as there are threads;
// wait waits for them.
func parallel(n int, do func(i int)) (wait func()) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				do(i)
			}
		})
	}
	return all.Wait
}

// partMost bounds a group: each connection may have some megabytes in its buffers.
const partMost = 1 << 30

// readAll reads what writeAll has written of n connections.
func (l *links) readAll(r io.Reader, n int) (*root, error) {
	groups := make([]*root, (n+groupSize-1)/groupSize)
	errs := make([]error, len(groups))
	var all sync.WaitGroup
	room := make(chan struct{}, runtime.GOMAXPROCS(0))
	var failed error
	for i := range groups {
		var endpoints, payloads []byte
		if endpoints, failed = readPart(r); failed == nil {
			payloads, failed = readPart(r)
		}
		if failed != nil {
			break
		}
		room <- struct{}{}
		all.Go(func() {
			groups[i], errs[i] = l.read(endpoints, payloads)
			<-room
		})
	}
	all.Wait()
	if failed != nil {
		return nil, failed
	}
	whole := &root{}
	for i, g := range groups {
		if errs[i] != nil {
			return nil, errs[i]
		}
		whole.endpoints, whole.queues = append(whole.endpoints, g.endpoints...), append(whole.queues, g.queues...)
	}
	return whole, nil
}

// write writes the endpoints as if they were of a stack of their own, and behind
// them their payloads, each of both behind its size.
func (l *links) write(b *bytes.Buffer, r *root) error {
	standIn := gstack.New(gstack.Options{})
	defer standIn.Destroy()
	standIn.SetAllowConnectedOnSave(true) // or gVisor would end them
	defer standIn.Resume()                // they take segments again
	for _, e := range r.endpoints {
		defer l.lead(e, standIn)()
	}
	payloads, back := l.queues.strip(r.endpoints, nil)
	defer back()
	at := b.Len()
	b.Write(make([]byte, partHead))
	if _, err := state.Save(context.Background(), b, r); err != nil {
		return fmt.Errorf("write connections: %w", short(err))
	}
	binary.BigEndian.PutUint32(b.Bytes()[at:], uint32(b.Len()-at-partHead))
	b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(payloads))))
	b.Write(payloads)
	return nil
}

// partHead is the size of a part's size.
const partHead = 4

// readPart reads what stands behind its size.
func readPart(r io.Reader) ([]byte, error) {
	var head [partHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	if size > partMost {
		return nil, errors.New("a part is too large")
	}
	var part bytes.Buffer
	if _, err := io.CopyN(&part, r, size); err != nil {
		return nil, err
	}
	return part.Bytes(), nil
}

// read makes endpoints of the two parts that write has written.
func (l *links) read(endpoints, payloads []byte) (*root, error) {
	var r root
	if _, err := state.Load(context.Background(), bytes.NewReader(endpoints), &r); err != nil {
		return nil, short(err)
	}
	if err := l.queues.fill(r.endpoints, payloads); err != nil {
		return nil, fmt.Errorf("what connections hold: %w", err)
	}
	return &r, nil
}

// short is the first of what gVisor says, which goes on with lists of all
// fields and with stack traces.
func short(err error) error {
	const most = 160
	text, _, _ := strings.Cut(err.Error(), "\n")
	if len(text) > most {
		text = text[:most] + " ..."
	}
	return errors.New(text)
}
