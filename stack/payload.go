package stack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/buffer"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// gVisor's state package writes each byte of a buffer as an object of its own,
// and reads it so: a connection with two megabytes in its queues takes as long as
// two thousand without. Payloads are therefore taken out of the segments while
// endpoints are written, and written behind them as the bytes they are.

// queues are where an endpoint keeps segments, and those their bytes.
type queues struct {
	received, arrived uintptr // in the endpoint: the heads of its lists
	snd, sent         uintptr // in the sender: the head of its list
	rcv, early        uintptr // in the receiver: a slice
	next              uintptr // in a segment, as the rest
	packet, options   uintptr
	bytes             uintptr // in the packet
}

func (f *finder) queues(ep reflect.Type) queues {
	snd, rcv := f.inner(ep, "snd"), f.inner(ep, "rcv")
	list := f.inner(ep, "rcvQueue")
	segment, arrived, written := f.inner(list, "head"), f.inner(ep, "segmentQueue"), f.inner(snd, "writeList")
	q := queues{
		received: f.at(ep, "rcvQueue", reflect.Struct) + f.at(list, "head", reflect.Pointer),
		arrived:  f.at(ep, "segmentQueue", reflect.Struct) + f.at(arrived, "list", reflect.Struct) + f.at(f.inner(arrived, "list"), "head", reflect.Pointer),
		snd:      f.at(ep, "snd", reflect.Pointer),
		sent:     f.at(snd, "writeList", reflect.Struct) + f.at(written, "writeList", reflect.Struct) + f.at(f.inner(written, "writeList"), "head", reflect.Pointer),
		rcv:      f.at(ep, "rcv", reflect.Pointer),
		early:    f.at(rcv, "pendingRcvdSegments", reflect.Slice),
		next:     f.at(segment, "next", reflect.Pointer),
		packet:   f.at(segment, "pkt", reflect.Pointer),
		options:  f.at(segment, "options", reflect.Slice),
		bytes:    f.at(f.inner(segment, "pkt"), "buf", reflect.Struct),
	}
	for _, t := range []struct {
		in   reflect.Type
		name string
		want reflect.Type
	}{
		{f.inner(arrived, "list"), "head", reflect.PointerTo(segment)}, {f.inner(written, "writeList"), "head", reflect.PointerTo(segment)},
		{segment, "next", reflect.PointerTo(segment)}, {segment, "pkt", reflect.TypeFor[*gstack.PacketBuffer]()},
		{segment, "options", reflect.TypeFor[[]byte]()}, {reflect.TypeFor[gstack.PacketBuffer](), "buf", reflect.TypeFor[buffer.Buffer]()},
	} {
		if field, ok := t.in.FieldByName(t.name); f.err == nil && (!ok || field.Type != t.want) {
			f.err = fmt.Errorf("stack: internal error: gVisor's %s.%s is no %s", t.in, t.name, t.want)
		}
	}
	if field, ok := rcv.FieldByName("pendingRcvdSegments"); f.err == nil && (!ok || field.Type.Elem() != reflect.PointerTo(segment)) {
		f.err = fmt.Errorf("stack: internal error: gVisor's %s keeps no segments that came early", rcv)
	}
	return q
}

// segments calls do with every segment that waits in an endpoint, in an order
// that is the same in the process that reads it.
func (q *queues) segments(e *tcp.Endpoint, do func(segment unsafe.Pointer)) {
	base := unsafe.Pointer(e)
	heads := []unsafe.Pointer{get[unsafe.Pointer](base, q.received), get[unsafe.Pointer](base, q.arrived)}
	if snd := get[unsafe.Pointer](base, q.snd); snd != nil {
		heads = append(heads, get[unsafe.Pointer](snd, q.sent))
	}
	for _, s := range heads {
		for ; s != nil; s = get[unsafe.Pointer](s, q.next) {
			do(s)
		}
	}
	if rcv := get[unsafe.Pointer](base, q.rcv); rcv != nil {
		for _, s := range get[[]unsafe.Pointer](rcv, q.early) {
			do(s)
		}
	}
}

// buffer is where a segment's bytes are, or nil.
func (q *queues) buffer(segment unsafe.Pointer) *buffer.Buffer {
	packet := get[unsafe.Pointer](segment, q.packet)
	if packet == nil {
		return nil
	}
	return (*buffer.Buffer)(unsafe.Add(packet, q.bytes))
}

// strip takes the payloads out of endpoints and appends them to those given, each
// behind its size. The function returned puts them back.
func (q *queues) strip(endpoints []*tcp.Endpoint, to []byte) (payloads []byte, back func()) {
	var undo []func()
	for _, e := range endpoints {
		q.segments(e, func(s unsafe.Pointer) {
			options := get[[]byte](s, q.options)
			put(s, q.options, options[:len(options):len(options)]) // or the rest of the frame would be written too
			at := q.buffer(s)
			if at == nil {
				to = binary.AppendUvarint(to, 0)
				return
			}
			whole := *at
			*at = buffer.Buffer{}
			undo = append(undo, func() { *at = whole })
			to = binary.AppendUvarint(to, uint64(whole.Size()))
			whole.Apply(func(v *buffer.View) { to = append(to, v.AsSlice()...) })
		})
	}
	return to, func() {
		for _, one := range undo {
			one()
		}
	}
}

// fill puts the payloads that strip has written into endpoints that were read.
func (q *queues) fill(endpoints []*tcp.Endpoint, payloads []byte) error {
	var err error
	for _, e := range endpoints {
		q.segments(e, func(s unsafe.Pointer) {
			size, n := binary.Uvarint(payloads)
			at := q.buffer(s)
			if n <= 0 || size > uint64(len(payloads)-n) || at == nil && size > 0 {
				err = io.ErrUnexpectedEOF
			}
			if err != nil || at == nil {
				return
			}
			payloads = payloads[n:]
			*at = buffer.MakeWithData(payloads[:size])
			payloads = payloads[size:]
		})
	}
	if err == nil && len(payloads) > 0 {
		err = errors.New("more payload is there than segments")
	}
	return err
}
