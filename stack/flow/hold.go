package flow

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"github.com/lastack/lastack/netif/frame"
)

// What a peer sends before its connection is spliced is held back: the stack
// sees the acknowledgement only, so that it has taken no byte when the table
// takes over, and each byte passes once. If the connection is not spliced after
// all, the stack gets what was held.
//
// A peer that has been sent nothing but a SYN-ACK may send its initial window,
// ten segments (RFC 6928). What does not fit is dropped for it to repeat.
const (
	heldMost    = 64 << 10 // bytes of one connection
	heldAllMost = 64 << 20 // bytes of all
)

type holds struct {
	mu    sync.Mutex // guards the rest; taken with a shard's lock held
	of    map[key][]held
	bytes int
}

// held is a frame that was held back.
type held struct {
	meta     frame.Header
	tagged   bool
	vlan     uint16
	seq, end uint32
	bytes    []byte // Ethernet header and packet
}

func (h *holds) init() { h.of = make(map[key][]held) }

// keep holds the data and the FIN of a segment back and leaves a bare
// acknowledgement. The flow's shard is locked.
func (h *holds) keep(t *Table, f *Flow, fr *frame.Frame, l frame.Layout, s *segment) {
	if s.flags&(rst|syn) != 0 || s.flags&ack == 0 || s.length() == 0 || f.state != SynReceived && f.state != Established {
		return
	}
	if !h.add(&f.key, fr, s) {
		t.Count.HeldOver.Add(1)
	}
	trim(fr, l, s)
}

// add copies a frame, unless it is there already, or too much is.
func (h *holds) add(k *key, fr *frame.Frame, s *segment) bool {
	size := len(fr.Eth) + len(fr.Net)
	h.mu.Lock()
	defer h.mu.Unlock()
	all, sum := h.of[*k], size
	for i := range all {
		if !before(s.seq, all[i].seq) && !after(s.end(), all[i].end) {
			return true
		}
		sum += len(all[i].bytes)
	}
	if sum > heldMost || h.bytes+size > heldAllMost {
		return false
	}
	one := held{meta: fr.Meta, tagged: fr.Tagged, vlan: fr.VLAN, seq: s.seq, end: s.end(), bytes: make([]byte, 0, size)}
	one.bytes = append(append(one.bytes, fr.Eth...), fr.Net...)
	h.of[*k] = append(all, one)
	h.bytes += size
	return true
}

// take removes what is held of a connection and returns it, oldest first.
func (h *holds) take(k *key) []held {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.of[*k]
	for i := range all {
		h.bytes -= len(all[i].bytes)
	}
	delete(h.of, *k)
	return all
}

func (h *holds) drop(k *key) { h.take(k) }

// frame is what was held, as it came.
func (h *held) frame() *frame.Frame {
	eth := frame.EthernetSize
	return &frame.Frame{Meta: h.meta, Tagged: h.tagged, VLAN: h.vlan, Eth: h.bytes[:eth:eth], Net: h.bytes[eth:], Room: make([]byte, frame.RoomSize)}
}

// refresh makes a segment that was held back as new as the last one of its peer's:
// one that the peer has repeated meanwhile has a later timestamp, and the guard and
// the other end would take what was held for a duplicate of long ago (RFC 7323,
// 5.3).
func (f *Flow) refresh(s *segment) {
	if s.ts && f.has(timestamps) && before(s.tsVal, f.tsRecent) {
		s.tsVal = f.tsRecent
	}
}

// trim makes a segment the bare acknowledgement that it carries.
func trim(fr *frame.Frame, l frame.Layout, s *segment) {
	s.size = 0
	s.flags &^= fin | psh | urg
	header := int(fr.Net[l.Transport+12]>>4) * 4
	fr.Net = fr.Net[:l.Transport+header]
	if l.Version == 4 {
		p := fr.Net
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p[:l.Transport], 0))
	} else {
		binary.BigEndian.PutUint16(fr.Net[4:], uint16(len(fr.Net)-40))
	}
	tcp := fr.Net[l.Transport:]
	tcp[13] = s.flags
	tcp[16], tcp[17], tcp[18], tcp[19] = 0, 0, 0, 0
	fr.Meta = frame.Header{Flags: frame.DataValid}
	l.End = len(fr.Net)
	binary.BigEndian.PutUint16(tcp[16:], l.TransportSum(fr.Net))
}

// Hold holds back what the peer of a connection sends that is about to be
// dialled, until Splice or Unhold.
func (t *Table) Hold(local, remote netip.AddrPort, id uint64) {
	t.known(local, remote, id, func(_ *shard, f *Flow, _ uint32, _ instant) {
		if !f.has(carried) && !f.state.synchronized() {
			f.flags |= holding
		}
	})
}

// Unhold gives the stack what was held back of a connection.
func (t *Table) Unhold(local, remote netip.AddrPort, id uint64) {
	var as Flow
	was := false
	t.known(local, remote, id, func(_ *shard, f *Flow, _ uint32, _ instant) {
		was = f.has(holding) && !f.has(carried)
		f.flags &^= holding
		as = *f
	})
	cards := t.cards.Load()
	if !was || cards == nil || int(as.card) >= len(*cards) {
		return
	}
	c := (*cards)[as.card]
	deliver := c.deliver.Load()
	for _, one := range t.holds.take(&as.key) {
		fr := one.frame()
		l, ok := frame.Parse(fr.Net)
		var s segment
		if deliver == nil || !ok || !s.readInbound(fr.Net, l) {
			continue
		}
		as.refresh(&s)
		if c.inbound(fr, l, &s) == frame.Pass {
			(*deliver)(fr)
		}
	}
}
