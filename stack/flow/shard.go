package flow

import (
	"math/bits"
	"sync"
)

const (
	shards    = 256
	chunkSize = 35 // flows that are allocated together: they fill a size class of Go's, 8 KiB
	chunkFull = 1<<chunkSize - 1

	wheelSlots = 1024
	wheelTick  = 100 // milliseconds of a slot: the wheel's way round is 102 s
)

// shard is a part of the table under one lock. Flows lie in chunks, which come
// and go; a slot number names a flow: chunk*chunkSize + place. The index is a
// hash table with linear probing.
type shard struct {
	no     uint8      // its number: who locks two takes the lower first
	mu     sync.Mutex // guards all below
	chunks []*chunk
	open   []uint32 // chunks that have room, in no order
	index  []place  // a power of two, at most 3/4 full
	n      int
	wheel  []uint32 // first flow of each slot, as slot+1; nil until there is a flow
	turned uint32   // the wheel's time: ticks of the table that are over

	queues  []queue // of those in TIME-WAIT, by policy
	timed   int     // flows in the wheel
	pending uint32  // flows of the tick that is being looked at, as slot+1
}

// place is an entry of the index. It holds the hash too, so that a search and a
// growing index touch no flows but the one that is looked for.
type place struct{ slot, hash uint32 } // slot+1; 0 is empty

// chunk is memory for some flows.
type chunk struct {
	flows  [chunkSize]Flow
	used   uint64 // a bit for each
	listed bool   // in shard.open
}

func (s *shard) at(slot uint32) *Flow { return &s.chunks[slot/chunkSize].flows[slot%chunkSize] }

// find returns the flow with the key, or nil.
func (s *shard) find(k *key, hash uint32) (*Flow, uint32) {
	if s.n == 0 {
		return nil, 0
	}
	mask := uint32(len(s.index) - 1)
	for i := hash & mask; s.index[i].slot != 0; i = (i + 1) & mask {
		if s.index[i].hash != hash {
			continue
		}
		slot := s.index[i].slot - 1
		if f := s.at(slot); f.key == *k {
			return f, slot
		}
	}
	return nil, 0
}

// insert makes a flow for a key that has none.
func (s *shard) insert(k *key, hash uint32) (*Flow, uint32) {
	if 4*(s.n+1) > 3*len(s.index) {
		s.grow()
	}
	slot := s.allocate()
	f := s.at(slot)
	*f = Flow{key: *k, hash: hash, sndScale: noScale, rcvScale: noScale}
	s.place(place{slot + 1, hash})
	s.n++
	return f, slot
}

func (s *shard) place(p place) {
	mask := uint32(len(s.index) - 1)
	i := p.hash & mask
	for s.index[i].slot != 0 {
		i = (i + 1) & mask
	}
	s.index[i] = p
}

// grow doubles the index. A shard is a small part of the table, so that even
// with millions of flows this takes well under a millisecond.
func (s *shard) grow() {
	old := s.index
	s.index = make([]place, max(16, 2*len(old)))
	for _, p := range old {
		if p.slot != 0 {
			s.place(p)
		}
	}
}

// allocate finds room, in the chunk that was last found to have some.
func (s *shard) allocate() uint32 {
	if len(s.open) == 0 {
		s.addChunk()
	}
	at := s.open[len(s.open)-1]
	c := s.chunks[at]
	place := uint32(bits.TrailingZeros64(^c.used))
	c.used |= 1 << place
	if c.used == chunkFull {
		c.listed = false
		s.open = s.open[:len(s.open)-1]
	}
	return at*chunkSize + place
}

func (s *shard) addChunk() {
	for i, c := range s.chunks {
		if c == nil {
			s.chunks[i] = &chunk{listed: true}
			s.open = append(s.open, uint32(i))
			return
		}
	}
	s.chunks = append(s.chunks, &chunk{listed: true})
	s.open = append(s.open, uint32(len(s.chunks)-1))
}

// remove forgets a flow.
func (s *shard) remove(f *Flow, slot uint32) {
	s.untime(f)
	s.unplace(f.hash, slot)
	at := slot / chunkSize
	c := s.chunks[at]
	c.used &^= 1 << (slot % chunkSize)
	s.n--
	if !c.listed {
		c.listed = true
		s.open = append(s.open, at)
	}
	switch {
	case s.n == 0:
		s.chunks, s.open, s.index, s.wheel = nil, nil, nil, nil
	case c.used == 0 && len(s.open) > spareChunks:
		s.dropChunk(at)
	}
}

// spareChunks with room are kept, so that one does not come and go with each flow.
const spareChunks = 8

func (s *shard) dropChunk(at uint32) {
	s.chunks[at] = nil
	for i, v := range s.open {
		if v == at {
			s.open[i] = s.open[len(s.open)-1]
			s.open = s.open[:len(s.open)-1]
			return
		}
	}
}

// unplace takes a slot out of the index and closes the gap, so that no search
// ends early.
func (s *shard) unplace(hash, slot uint32) {
	mask := uint32(len(s.index) - 1)
	i := hash & mask
	for s.index[i].slot != slot+1 {
		i = (i + 1) & mask
	}
	for j := (i + 1) & mask; s.index[j].slot != 0; j = (j + 1) & mask {
		home := s.index[j].hash & mask
		// It may move to the gap unless its home lies between the gap and it.
		if (j-home)&mask >= (j-i)&mask {
			s.index[i] = s.index[j]
			i = j
		}
	}
	s.index[i] = place{}
}

// each calls f for every flow.
func (s *shard) each(f func(*Flow)) {
	for _, c := range s.chunks {
		if c == nil {
			continue
		}
		for used := c.used; used != 0; used &= used - 1 {
			f(&c.flows[bits.TrailingZeros64(used)])
		}
	}
}
