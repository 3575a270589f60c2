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

// The way of a sent packet, in the order of this file:
//
//	WritePackets -> add -> Filter.Outbound -> offload -> flush (sendmmsg) -> recover
const (
	txBatch = 64
	// txWait is how long a full send queue is waited for, in milliseconds,
	// before the frame is dropped for TCP to repeat.
	txWait = 5
)

// batch collects the packets of one call. Batches are reused through txPool.
type batch struct {
	e    *Endpoint
	n    int
	hdrs [txBatch]frame.Header
	msgs [txBatch]mmsghdr
	from [txBatch]int // first iovec of each message: iovs may move while it grows
	iovs []unix.Iovec
	send func(fd uintptr) // bound once, so that a call allocates nothing
	f    frame.Frame      // what the filter is shown
}

var txPool = sync.Pool{New: func() any {
	b := &batch{iovs: make([]unix.Iovec, 0, 4*txBatch)}
	b.send = b.sendTo
	return b
}}

// WritePackets implements stack.LinkWriter. A packet that cannot be sent is
// dropped and counted: for TCP that is loss on the way like any other.
func (p *Port) WritePackets(pkts gstack.PacketBufferList) (int, tcpip.Error) {
	b := txPool.Get().(*batch)
	b.e = p.e
	for _, pkt := range pkts.AsSlice() {
		b.add(p, pkt)
		if b.n == txBatch {
			b.flush()
		}
	}
	b.flush()
	b.e, b.f = nil, frame.Frame{}
	txPool.Put(b)
	return pkts.Len(), nil
}

// add appends one packet to the batch, unless the filter takes it.
func (b *batch) add(p *Port, pkt *gstack.PacketBuffer) {
	i, first := b.n, len(b.iovs)
	b.from[i] = first
	b.iovs = append(b.iovs, unix.Iovec{Base: (*byte)(unsafe.Pointer(&b.hdrs[i])), Len: frame.HeaderSize})
	views, skip := pkt.AsViewList()
	var head []byte
	for v := views.Front(); v != nil; v = v.Next() {
		data := v.AsSlice()
		if skip >= len(data) {
			skip -= len(data)
			continue
		}
		data, skip = data[skip:], 0
		if head == nil {
			head = data
		}
		b.iovs = append(b.iovs, unix.Iovec{Base: &data[0], Len: uint64(len(data))})
	}
	b.offload(i, p, pkt)
	if b.e.filter != nil && !b.outbound(i, p, head) {
		b.iovs = b.iovs[:first]
		return
	}
	b.n++
}

// outbound asks the filter. head holds at least the link, network and
// transport headers: the stack always writes them into one buffer.
func (b *batch) outbound(i int, p *Port, head []byte) bool {
	link := int(p.MaxHeaderLength())
	b.f = frame.Frame{Meta: b.hdrs[i], VLAN: p.vlan, Tagged: p.vlan != 0, Eth: head[:link], Net: head[link:]}
	switch b.e.filter.Outbound(&b.f) {
	case frame.Drop:
		b.e.count.txFiltered.Add(1)
		return false
	case frame.Consume:
		b.e.count.txCarried.Add(1)
		return false
	}
	return true
}

// offload writes what the kernel has still to do: finish the TCP checksum and
// cut a super-frame into segments. The segment size follows the MTU of now, so
// that a connection survives a smaller one.
func (b *batch) offload(i int, p *Port, pkt *gstack.PacketBuffer) {
	h := &b.hdrs[i]
	*h = frame.Header{}
	g := pkt.GSOOptions
	if g.Type == gstack.GSONone || !g.NeedsCsum {
		return
	}
	link := p.MaxHeaderLength()
	h.Flags = frame.NeedsCsum
	h.HdrLen = uint16(pkt.HeaderSize())
	h.CsumStart = link + g.L3HdrLen
	h.CsumOffset = g.CsumOffset
	mss := min(int(g.MSS), int(b.e.mtu.Load())-int(h.HdrLen-link))
	if mss <= 0 || pkt.Data().Size() <= mss {
		return
	}
	h.GSOSize = uint16(mss)
	h.GSOType = frame.GSOTCPv4
	if g.Type == gstack.GSOTCPv6 {
		h.GSOType = frame.GSOTCPv6
	}
}

// flush sends the batch.
func (b *batch) flush() {
	if b.n == 0 {
		b.iovs = b.iovs[:0]
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
	if tx := b.e.tx.Load(); tx == nil || tx.raw.Control(b.send) != nil {
		b.e.count.txLinkDown.Add(uint64(b.n)) // closed, or between two cards
	}
	clear(b.iovs) // the buffers go back to the stack
	b.n, b.iovs = 0, b.iovs[:0]
}

// sendTo runs with the socket kept open by the caller.
func (b *batch) sendTo(fd uintptr) {
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
	b := txPool.Get().(*batch)
	b.e = e
	b.hdrs[0] = meta
	b.from[0], b.n = 0, 1
	b.iovs = append(b.iovs, unix.Iovec{Base: (*byte)(unsafe.Pointer(&b.hdrs[0])), Len: frame.HeaderSize})
	for _, part := range [][]byte{eth, net} {
		if len(part) > 0 {
			b.iovs = append(b.iovs, unix.Iovec{Base: &part[0], Len: uint64(len(part))})
		}
	}
	b.flush()
	b.e, b.f = nil, frame.Frame{}
	txPool.Put(b)
}
