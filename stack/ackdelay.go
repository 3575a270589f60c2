package stack

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lastack/lastack/netif/frame"
)

// AckDelay is a card's frame filter that delays acknowledgements (RFC 9293,
// 3.8.6.3), because gVisor sends one at once for whatever arrives: it holds an
// ACK without data for some milliseconds, in the hope that data with the same
// acknowledgement goes out before, as in an exchange of requests and answers.
// That saves the peer, the wire and us a frame.
//
// What has to go at once does: "an ACK SHOULD be generated for at least every
// second full-sized segment", duplicates tell of a loss, and a connection whose
// ACK was held in vain is left alone for a while: its peer may be waiting for it.
// Handshakes and whatever follows our FIN are never held.
//
// It knows connections by a hash in a table of fixed size: a connection that
// another pushed out only isn't delayed. Start begins, Close sends what is held and ends; it owns one
// goroutine.
type AckDelay struct {
	Count AckCounters

	seed   maphash.Seed
	send   atomic.Pointer[SendFunc]
	shards [ackShards]ackShard
	start  time.Time
	kick   chan struct{}
	done   chan struct{}
	wg     sync.WaitGroup
}

// AckCounters counts what became of the acknowledgements that were held.
type AckCounters struct {
	Saved atomic.Uint64 // another segment carried the acknowledgement
	Late  atomic.Uint64 // sent after the delay
}

// SendFunc puts a frame on the wire; it keeps neither slice.
type SendFunc func(meta frame.Header, eth, net []byte)

// Most answers take less than ackDelay, also from a backend under load. Linux
// waits for 40 ms and more, RFC 9293 allows 500.
const (
	ackDelay  = 20 * time.Millisecond
	ackTick   = ackDelay / 4 // a held ACK may be late by that
	ackShards = 16
	ackSlots  = 256  // connections in a shard
	ackHeld   = 64   // ACKs held in a shard
	ackSkip   = 16   // ACKs not held after one that was in vain
	ackMost   = 1460 // bytes one held ACK may be about: one full-sized segment
	ackFrame  = 96   // bytes of a frame that is held: tagged Ethernet, IPv6, TCP with timestamps are 90
)

type ackShard struct {
	mu    sync.Mutex // guards the rest
	slots [ackSlots]ackSlot
	held  [ackHeld]heldAck // a ring, in the order of time
	head  int
	n     int
}

// ackSlot is what is known of the last connection that fell into it.
type ackSlot struct {
	key   uint64 // 0: nobody
	acked uint32 // highest acknowledgement that was sent
	want  uint32 // the one that is held
	turn  uint32 // counts what was held, so that an old heldAck is known as such
	held  bool
	fin   bool // we have sent FIN
	skip  uint8
	ecr   [4]byte // the echo in the one that is held
	ts    bool    // it has one
}

type heldAck struct {
	slot *ackSlot
	key  uint64
	turn uint32
	due  time.Duration
	meta frame.Header
	eth  uint8 // bytes of the link header
	size uint8
	data [ackFrame]byte
}

var _ frame.Filter = (*AckDelay)(nil)

// NewAckDelay makes a filter that passes everything until Start.
func NewAckDelay() *AckDelay {
	return &AckDelay{seed: maphash.MakeSeed(), start: time.Now(), kick: make(chan struct{}, 1), done: make(chan struct{})}
}

// Start begins to hold ACKs; send is for those whose time has come.
func (a *AckDelay) Start(send SendFunc) {
	a.send.Store(&send)
	a.wg.Go(a.run)
}

// Close sends what is held and passes everything from then on. It is to be
// called once, after Start.
func (a *AckDelay) Close() {
	send := a.send.Swap(nil)
	close(a.done)
	a.wg.Wait()
	for i := range a.shards {
		a.release(&a.shards[i], *send, time.Since(a.start)+2*ackDelay)
	}
}

// Flush sends what is held, now.
func (a *AckDelay) Flush() {
	if send := a.send.Load(); send != nil {
		for i := range a.shards {
			a.release(&a.shards[i], *send, time.Since(a.start)+2*ackDelay)
		}
	}
}

// Inbound implements frame.Filter.
func (a *AckDelay) Inbound(*frame.Frame) frame.Verdict { return frame.Pass }

// Outbound implements frame.Filter.
func (a *AckDelay) Outbound(f *frame.Frame) frame.Verdict {
	send := a.send.Load()
	if send == nil {
		return frame.Pass
	}
	s, ok := parseSegment(f.Net)
	if !ok {
		return frame.Pass
	}
	key := maphash.Bytes(a.seed, s.names) | 1
	shard := &a.shards[key>>1%ackShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	slot := &shard.slots[key>>8%ackSlots]
	if slot.key != key {
		shard.evict(slot, *send)
		*slot = ackSlot{key: key, acked: s.ack, turn: slot.turn, fin: s.flags&(tcpFIN|tcpRST) != 0}
		return frame.Pass
	}
	if !slot.mayHold(s) || !shard.room() {
		if slot.held && slot.ts {
			keepEcho(f, slot.ecr)
		}
		a.pass(slot, s)
		return frame.Pass
	}
	slot.turn++
	slot.held, slot.want = true, s.ack
	slot.ecr, slot.ts = echoOf(f.Net)
	shard.hold(slot, f, time.Since(a.start)+ackDelay)
	select {
	case a.kick <- struct{}{}:
	default:
	}
	return frame.Consume
}

// pass notes that a segment goes out, which makes a held ACK needless.
func (a *AckDelay) pass(slot *ackSlot, s segment) {
	if slot.held {
		slot.held = false
		a.Count.Saved.Add(1)
	}
	if s.flags&tcpSYN != 0 { // the ports are used anew
		*slot = ackSlot{key: slot.key, turn: slot.turn}
	}
	if slot.skip > 0 && s.pure {
		slot.skip--
	}
	if s.bare && (!s.pure || s.ack == slot.acked) {
		// Something is missing. RFC 5681, 4.2: "SHOULD send an immediate ACK when
		// the incoming segment fills in all or part of a gap".
		slot.skip = max(slot.skip, 1)
	}
	slot.acked = s.ack
	slot.fin = slot.fin || s.flags&(tcpFIN|tcpRST) != 0
}

// echoAt is where gVisor's segments have their timestamp's echo, in the TCP
// header: behind two NOPs, kind, length and our own timestamp.
const echoAt = tcpHeader + 8

// timestamped finds the TCP header of a packet of ours that begins its options
// with timestamps, or nil.
func timestamped(p []byte) []byte {
	at := 20
	if p[0]>>4 == 6 {
		at = 40
	}
	if len(p) < at+echoAt+4 || int(p[at+12]>>4)*4 < echoAt+4 || p[at+tcpHeader] != 1 || !onlyTimestamps(p[at+tcpHeader:]) {
		return nil
	}
	return p[at:]
}

func echoOf(p []byte) (ecr [4]byte, ok bool) {
	tcp := timestamped(p)
	if tcp == nil {
		return ecr, false
	}
	return [4]byte(tcp[echoAt:]), true
}

// keepEcho gives a segment the echo of the ACK it stands for: that of the
// earliest segment it acknowledges, so that the peer's measurement includes the
// delay (RFC 7323, 4.3).
func keepEcho(f *frame.Frame, ecr [4]byte) {
	tcp := timestamped(f.Net)
	if tcp == nil || [4]byte(tcp[echoAt:]) == ecr {
		return
	}
	old := ^frame.Sum(tcp[echoAt:echoAt+4], 0)
	copy(tcp[echoAt:], ecr[:])
	if f.Meta.Flags&frame.NeedsCsum == 0 { // RFC 1624: HC' = ~(~HC + ~m + m')
		sum := ^binary.BigEndian.Uint16(tcp[16:])
		binary.BigEndian.PutUint16(tcp[16:], ^frame.Sum(ecr[:], frame.Sum([]byte{byte(old >> 8), byte(old)}, sum)))
	}
}

// mayHold reports whether a segment is an ACK that can wait.
func (slot *ackSlot) mayHold(s segment) bool {
	news := s.ack - slot.acked // modulo 2^32: a duplicate has 0
	return s.pure && !slot.held && !slot.fin && slot.skip == 0 && news-1 < ackMost
}

// room makes place for one more, if that can be.
func (shard *ackShard) room() bool {
	for shard.n > 0 && !shard.held[shard.head].alive() {
		shard.drop()
	}
	return shard.n < ackHeld
}

func (shard *ackShard) hold(slot *ackSlot, f *frame.Frame, due time.Duration) {
	h := &shard.held[(shard.head+shard.n)%ackHeld]
	shard.n++
	h.slot, h.key, h.turn, h.due, h.meta = slot, slot.key, slot.turn, due, f.Meta
	h.eth = uint8(copy(h.data[:], f.Eth))
	h.size = h.eth + uint8(copy(h.data[h.eth:], f.Net))
}

// evict sends the ACK that the slot's connection has still to send: another
// connection takes the slot.
func (shard *ackShard) evict(slot *ackSlot, send SendFunc) {
	if !slot.held {
		return
	}
	for i := range shard.n {
		if h := &shard.held[(shard.head+i)%ackHeld]; h.slot == slot && h.alive() {
			h.send(send)
		}
	}
}

func (shard *ackShard) drop() {
	shard.head = (shard.head + 1) % ackHeld
	shard.n--
}

// alive reports whether nothing was sent instead.
func (h *heldAck) alive() bool {
	return h.slot.held && h.slot.key == h.key && h.slot.turn == h.turn
}

// send is called with the shard locked, so that no later segment overtakes.
func (h *heldAck) send(send SendFunc) {
	h.slot.held, h.slot.acked = false, h.slot.want
	send(h.meta, h.data[:h.eth], h.data[h.eth:h.size])
}

// run sends what was held for long enough.
func (a *AckDelay) run() {
	tick := time.NewTimer(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-a.done:
			return
		case <-a.kick:
		}
		for left := true; left; {
			tick.Reset(ackTick)
			select {
			case <-a.done:
				return
			case <-tick.C:
			}
			left = a.releaseDue()
		}
	}
}

func (a *AckDelay) releaseDue() (left bool) {
	send := a.send.Load()
	if send == nil {
		return false // Close does it
	}
	now := time.Since(a.start)
	for i := range a.shards {
		left = a.release(&a.shards[i], *send, now) || left
	}
	return left
}

func (a *AckDelay) release(shard *ackShard, send SendFunc, now time.Duration) (left bool) {
	shard.mu.Lock()
	defer shard.mu.Unlock()
	for shard.room(); shard.n > 0; shard.room() {
		h := &shard.held[shard.head]
		if h.due > now {
			return true
		}
		h.slot.skip = ackSkip
		h.send(send)
		a.Count.Late.Add(1)
	}
	return false
}

// segment is what AckDelay looks at in a TCP segment of ours.
type segment struct {
	names []byte // both addresses and ports
	ack   uint32
	flags uint8
	bare  bool // an acknowledgement without data
	pure  bool // and with nothing else that matters
}

const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// parseSegment reads the headers of a packet that gVisor made: whole headers,
// no IP options. The data may be elsewhere.
func parseSegment(p []byte) (s segment, ok bool) {
	var tcp []byte
	var length int
	switch {
	case len(p) >= 40 && p[0] == 0x45 && p[9] == frame.ProtoTCP:
		tcp, length, s.names = p[20:], int(binary.BigEndian.Uint16(p[2:]))-20, p[12:24]
	case len(p) >= 60 && p[0]>>4 == 6 && p[6] == frame.ProtoTCP:
		tcp, length, s.names = p[40:], int(binary.BigEndian.Uint16(p[4:])), p[8:44]
	default:
		return s, false
	}
	s.ack, s.flags = binary.BigEndian.Uint32(tcp[8:]), tcp[13]
	header := int(tcp[12]>>4) * 4
	s.bare = s.flags == tcpACK && length == header && len(tcp) == header
	s.pure = s.bare && (header == tcpHeader || header == tcpHeader+12 && onlyTimestamps(tcp[tcpHeader:])) &&
		binary.BigEndian.Uint16(tcp[14:]) != 0 // a closed window is news
	return s, true
}

// onlyTimestamps: SACK blocks tell of a loss, and are of other size or order.
func onlyTimestamps(options []byte) bool {
	return options[0] == 1 && options[1] == 1 && options[2] == 8
}

// Filters shows a frame to one filter after another, as long as they pass it.
type Filters []frame.Filter

var _ frame.Filter = Filters(nil)

// Inbound implements frame.Filter.
func (all Filters) Inbound(f *frame.Frame) frame.Verdict {
	for _, one := range all {
		if v := one.Inbound(f); v != frame.Pass {
			return v
		}
	}
	return frame.Pass
}

// Outbound implements frame.Filter.
func (all Filters) Outbound(f *frame.Frame) frame.Verdict {
	for _, one := range all {
		if v := one.Outbound(f); v != frame.Pass {
			return v
		}
	}
	return frame.Pass
}
