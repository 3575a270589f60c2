package netif

import (
	"encoding/binary"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/lastack/lastack/netif/frame"
)

// The way of a sent packet, in this order:
//
//	WritePackets -> offload -> Filter.Outbound -> txQueue -> batch.add -> flush -> send (sendmmsg)
const (
	txBatch = 64
	// txWait is how long a full send queue is waited for, in milliseconds,
	// before the frame is dropped for TCP to repeat.
	txWait = 5
)

// WritePackets implements stack.LinkWriter. A packet that cannot be sent is
// dropped and counted: for TCP that is loss on the way like any other.
func (p *Port) WritePackets(pkts gstack.PacketBufferList) (int, tcpip.Error) {
	waiting := false
	for _, pkt := range pkts.AsSlice() {
		h := p.offload(pkt)
		if p.e.filter == nil || p.outbound(&h, pkt) {
			waiting = !p.e.txq.add(h, pkt)
		}
	}
	if waiting {
		p.e.txq.kick()
	}
	return pkts.Len(), nil
}

// offload writes what the kernel has still to do: finish the TCP checksum and
// cut a super-frame into segments. The segment size follows the MTU of now, so
// that a connection survives a smaller one.
func (p *Port) offload(pkt *gstack.PacketBuffer) (h frame.Header) {
	g := pkt.GSOOptions
	if g.Type == gstack.GSONone || !g.NeedsCsum {
		return h
	}
	link := p.MaxHeaderLength()
	h.Flags = frame.NeedsCsum
	h.HdrLen = uint16(pkt.HeaderSize())
	h.CsumStart = link + g.L3HdrLen
	h.CsumOffset = g.CsumOffset
	mss := min(int(g.MSS), int(p.e.mtu.Load())-int(h.HdrLen-link))
	if mss <= 0 || pkt.Data().Size() <= mss {
		return h
	}
	h.GSOSize = uint16(mss)
	h.GSOType = frame.GSOTCPv4
	if g.Type == gstack.GSOTCPv6 {
		h.GSOType = frame.GSOTCPv6
	}
	return h
}

// shown is what filters are shown: through an interface, so it would be
// allocated each time.
var shown = sync.Pool{New: func() any { return new(frame.Frame) }}

// outbound asks the filter, with no lock held: it may have something to Send
// before.
func (p *Port) outbound(h *frame.Header, pkt *gstack.PacketBuffer) bool {
	// The stack always writes all the headers into one buffer.
	views, skip := pkt.AsViewList()
	head := views.Front().AsSlice()[skip:]
	link := int(p.MaxHeaderLength())
	f := shown.Get().(*frame.Frame)
	*f = frame.Frame{Meta: *h, VLAN: p.vlan, Tagged: p.vlan != 0, Eth: head[:link], Net: head[link:]}
	verdict := p.e.filter.Outbound(f)
	*f = frame.Frame{}
	shown.Put(f)
	switch verdict {
	case frame.Drop:
		p.e.count.txFiltered.Add(1)
		return false
	case frame.Consume:
		p.e.count.txCarried.Add(1)
		return false
	}
	return true
}

// batch is what one call of sendmmsg sends.
type batch struct {
	e     *Endpoint
	n     int
	bytes int
	hdrs  [txBatch]frame.Header
	msgs  [txBatch]mmsghdr
	from  [txBatch]int // first iovec of each message: iovs may move while it grows
	pkts  [txBatch]*gstack.PacketBuffer
	iovs  []unix.Iovec
}

func newBatch(e *Endpoint) *batch {
	return &batch{e: e, iovs: make([]unix.Iovec, 0, 4*txBatch)}
}

// add appends one packet and keeps it until it is sent.
func (b *batch) add(h frame.Header, pkt *gstack.PacketBuffer) {
	i := b.n
	b.n++
	b.bytes += pkt.Size()
	b.hdrs[i], b.from[i], b.pkts[i] = h, len(b.iovs), pkt.IncRef()
	b.iovs = append(b.iovs, unix.Iovec{Base: (*byte)(unsafe.Pointer(&b.hdrs[i])), Len: frame.HeaderSize})
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		data := v.AsSlice()
		if skip >= len(data) {
			skip -= len(data)
			continue
		}
		data, skip = data[skip:], 0
		b.iovs = append(b.iovs, unix.Iovec{Base: &data[0], Len: uint64(len(data))})
	}
}

// addParts appends one frame, whose parts must stay as they are until it is sent.
func (b *batch) addParts(meta frame.Header, head, body []byte) {
	i := b.n
	b.n++
	b.bytes += len(head) + len(body)
	b.hdrs[i], b.from[i] = meta, len(b.iovs)
	b.iovs = append(b.iovs, unix.Iovec{Base: (*byte)(unsafe.Pointer(&b.hdrs[i])), Len: frame.HeaderSize})
	for _, part := range [...][]byte{head, body} {
		if len(part) > 0 {
			b.iovs = append(b.iovs, unix.Iovec{Base: &part[0], Len: uint64(len(part))})
		}
	}
}

// flush sends the batch by the socket fd.
func (b *batch) flush(fd int) {
	if b.n == 0 {
		return
	}
	for i := range b.n {
		end := len(b.iovs)
		if i+1 < b.n {
			end = b.from[i+1]
		}
		h := &b.msgs[i].hdr
		h.Iov = &b.iovs[b.from[i]]
		h.SetIovlen(end - b.from[i])
	}
	if fd < 0 {
		b.e.count.txLinkDown.Add(uint64(b.n))
	} else {
		b.send(fd)
	}
	for i, pkt := range b.pkts[:b.n] {
		if pkt != nil { // a Send has none
			pkt.DecRef()
			b.pkts[i] = nil
		}
	}
	clear(b.iovs) // the buffers go back to the stack
	b.n, b.bytes, b.iovs = 0, 0, b.iovs[:0]
}

func (b *batch) send(fd int) {
	c := &b.e.count
	msgs := b.msgs[:b.n]
	waited := false
	for len(msgs) > 0 {
		n, errno := sendmmsg(fd, msgs)
		if errno == 0 {
			b.countSent(b.n-len(msgs), n)
			msgs = msgs[n:]
			continue
		}
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN, unix.ENOBUFS:
			if !waited {
				waited = true
				_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, txWait) // the retry tells
				continue
			}
			c.txNoBuffer.Add(1)
		case unix.ENETDOWN, unix.ENXIO, unix.ENODEV:
			c.txLinkDown.Add(1)
		case unix.EMSGSIZE:
			c.txTooBig.Add(1)
		default:
			c.txError.Add(1)
		}
		msgs = msgs[1:]
	}
}

// countSent counts n frames, from the first on, that the kernel has taken.
// Without carrier it takes frames and drops them in silence.
func (b *batch) countSent(first, n int) {
	c := &b.e.count
	if !b.e.up.Load() {
		c.txLinkDown.Add(uint64(n))
		return
	}
	bytes, super := uint64(0), uint64(0)
	for i := first; i < first+n; i++ {
		bytes += uint64(b.msgs[i].len) - frame.HeaderSize
		if b.hdrs[i].GSOType != frame.GSONone {
			super++
		}
	}
	c.txFrames.Add(uint64(n))
	c.txBytes.Add(bytes)
	if super > 0 {
		c.txSuper.Add(super)
	}
}

// reply sends a frame that the filter has turned round, with the tag it came with.
func (e *Endpoint) reply(f *frame.Frame) {
	if !f.Tagged {
		e.Send(f.Meta, f.Eth, f.Net)
		return
	}
	eth := append(make([]byte, 0, frame.EthernetSize+tagSize), f.Eth[:12]...)
	eth = binary.BigEndian.AppendUint16(eth, frame.TypeVLAN)
	eth = binary.BigEndian.AppendUint16(eth, f.VLAN)
	eth = append(eth, f.Eth[12:]...)
	if f.Meta.Flags&frame.NeedsCsum != 0 {
		f.Meta.CsumStart += tagSize
	}
	e.Send(f.Meta, eth, f.Net)
}

// Send puts one finished Ethernet frame on the wire, as a Filter does with
// its own answers. eth and net are not kept.
func (e *Endpoint) Send(meta frame.Header, eth, net []byte) {
	q := e.txq
	q.sending.Lock()
	defer q.sending.Unlock()
	q.flushLocked()
	b := q.other // empty, and ours
	b.addParts(meta, eth, net)
	b.flush(q.fd)
}

// sendAll sends frames that were collected elsewhere, behind what the stack has
// sent before.
func (e *Endpoint) sendAll(b *batch) {
	q := e.txq
	q.sending.Lock()
	defer q.sending.Unlock()
	q.flushLocked()
	fd := q.fd
	if q.paused {
		fd = -1
	}
	b.flush(fd)
}
