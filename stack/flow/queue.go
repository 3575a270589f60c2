package flow

// The flows in TIME-WAIT of a shard stand in a queue for each policy, the
// oldest first: that is who goes when there are too many.
type queue struct{ first, last uint32 } // slot+1; 0: none

const (
	countedHalfOpen = 1 << iota
	countedTimeWait
)

func (s *shard) joinQueue(f *Flow, slot uint32) {
	for len(s.queues) <= int(f.policy) {
		s.queues = append(s.queues, queue{})
	}
	q := &s.queues[f.policy]
	f.older, f.newer = q.last, 0
	if q.last != 0 {
		s.at(q.last - 1).newer = slot + 1
	} else {
		q.first = slot + 1
	}
	q.last = slot + 1
}

func (s *shard) leaveQueue(f *Flow, slot uint32) {
	q := &s.queues[f.policy]
	if f.older != 0 {
		s.at(f.older - 1).newer = f.newer
	} else {
		q.first = f.newer
	}
	if f.newer != 0 {
		s.at(f.newer - 1).older = f.older
	} else {
		q.last = f.older
	}
	f.older, f.newer = 0, 0
}

// oldest is the flow that has been in TIME-WAIT for longest, or nil.
func (s *shard) oldest(policy int) (*Flow, uint32) {
	if policy >= len(s.queues) || s.queues[policy].first == 0 {
		return nil, 0
	}
	slot := s.queues[policy].first - 1
	return s.at(slot), slot
}

// evict ends the oldest TIME-WAIT of a policy that has too many: the bound is
// memory, and a new connection's peer is nearer than an old one's.
func (t *Table) evict(policy int) {
	now := t.now()
	var from *shard
	var longest int32 = -1
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		if f, _ := sh.oldest(policy); f != nil {
			if age := int32(now.ms - f.progress); age > longest {
				from, longest = sh, age
			}
		}
		sh.mu.Unlock()
	}
	if from == nil {
		return
	}
	from.mu.Lock()
	defer from.mu.Unlock()
	if f, slot := from.oldest(policy); f != nil {
		t.Count.Evicted.Add(1)
		t.forget(from, f, slot)
	}
}
