package flow

// The wheel of a shard: a list of flows for each tick of its way round. A flow
// is in it at most once. Refreshing a timer costs nothing, because the wheel
// only looks at a flow when it comes by, and takes it along again if its time
// has moved.

// time puts a flow into the wheel, to be looked at when the given millisecond
// of the table is over. An empty wheel has stood still and is set to now.
func (s *shard) time(f *Flow, slot, due, now uint32) {
	s.untime(f)
	if s.wheel == nil {
		s.wheel = make([]uint32, wheelSlots)
	}
	if s.timed == 0 {
		s.turned = now / wheelTick
	}
	s.timed++
	tick := due/wheelTick + 1
	if int32(tick-s.turned) <= 0 {
		tick = s.turned + 1
	}
	f.due, f.spoke, f.timed = due, uint16(tick%wheelSlots), true
	head := &s.wheel[f.spoke]
	f.next, f.prev = *head, 0
	if f.next != 0 {
		s.at(f.next - 1).prev = slot + 1
	}
	*head = slot + 1
}

// untime takes a flow out of the wheel.
func (s *shard) untime(f *Flow) {
	if !f.timed {
		return
	}
	s.timed--
	if f.next != 0 {
		s.at(f.next - 1).prev = f.prev
	}
	switch {
	case f.prev != 0:
		s.at(f.prev - 1).next = f.next
	case s.pending != 0 && s.at(s.pending-1) == f:
		s.pending = f.next
	default:
		s.wheel[f.spoke] = f.next
	}
	f.next, f.prev, f.timed = 0, 0, false
}

// turn moves the wheel to the next tick, once all of the last one are done,
// and calls due for flows whose time has come, which are out of the wheel
// then. It looks at no more than most flows and reports whether it is through
// with the tick.
func (s *shard) turn(now uint32, most int, due func(f *Flow, slot uint32)) (done bool) {
	if s.pending == 0 {
		s.turned++
		head := &s.wheel[s.turned%wheelSlots]
		s.pending, *head = *head, 0
	}
	for ; s.pending != 0 && most > 0; most-- {
		slot := s.pending - 1
		f := s.at(slot)
		s.untime(f)
		if int32(f.due-now) > 0 { // of a later round
			s.time(f, slot, f.due, now)
			continue
		}
		due(f, slot)
	}
	return s.pending == 0
}
