package services

import (
	"math"
	"math/bits"
	"time"
)

// tick is the granularity of timers: closing limits are seconds, and a coarse
// tick lets one wake-up serve many of them.
const tick = 10 * time.Millisecond

const (
	wheelBits   = 6
	wheelSlots  = 1 << wheelBits
	wheelLevels = 4 // 64^4 ticks: 46 hours; later timers are put in again on the way
	noTick      = math.MaxInt64
)

// timerEntry is a Task's place in a wheel.
type timerEntry struct {
	prev, next *Task
	due        int64 // in ticks; 0 when not armed
	level      uint8
	slot       uint8
}

// wheel holds the timers of one Loop, in levels of 64 slots: a slot of level n
// spans 64^n ticks, and its tasks move down a level when its time comes. Set
// and remove take constant time; a map of used slots per level tells the next
// moment something is due, so that nothing ticks in between.
type wheel struct {
	now   int64 // everything due up to this tick has been woken
	next  int64 // nothing happens before this tick
	used  [wheelLevels]uint64
	slots [wheelLevels][wheelSlots]*Task
}

// tickAfter rounds up: a timer may be late, never early.
func tickAfter(at time.Duration) int64 { return max(1, int64((at+tick-1)/tick)) }

func (w *wheel) set(t *Task, at time.Duration) {
	w.remove(t)
	t.entry.due = max(tickAfter(at), w.now+1)
	w.insert(t)
	w.next = min(w.next, w.firstTick(t))
}

// firstTick is when the wheel must next look at t.
func (w *wheel) firstTick(t *Task) int64 {
	shift := wheelBits * int(t.entry.level)
	first := w.now>>shift + 1
	first += (int64(t.entry.slot) - first) & (wheelSlots - 1)
	return first << shift
}

func (w *wheel) insert(t *Task) {
	e := &t.entry
	delta := min(e.due-w.now, 1<<(wheelBits*wheelLevels)-1)
	level := 0
	for delta >= 1<<(wheelBits*(level+1)) {
		level++
	}
	slot := ((w.now + delta) >> (wheelBits * level)) & (wheelSlots - 1)
	e.level, e.slot = uint8(level), uint8(slot)
	head := w.slots[level][slot]
	e.prev, e.next = nil, head
	if head != nil {
		head.entry.prev = t
	}
	w.slots[level][slot] = t
	w.used[level] |= 1 << slot
}

func (w *wheel) remove(t *Task) {
	e := &t.entry
	if e.due == 0 {
		return
	}
	if e.next != nil {
		e.next.entry.prev = e.prev
	}
	if e.prev != nil {
		e.prev.entry.next = e.next
	} else {
		w.slots[e.level][e.slot] = e.next
		if e.next == nil {
			w.used[e.level] &^= 1 << e.slot
		}
	}
	*e = timerEntry{}
}

// advance wakes everything due up to now.
func (w *wheel) advance(now time.Duration) {
	to := int64(now / tick)
	for w.next <= to {
		w.now = w.next
		w.turn()
		w.next = w.upcoming()
	}
	w.now = max(w.now, to)
}

// turn handles the slots that w.now has reached, the widest first.
func (w *wheel) turn() {
	for level := wheelLevels - 1; level >= 0; level-- {
		shift := wheelBits * level
		if w.now&(1<<shift-1) != 0 {
			continue
		}
		slot := (w.now >> shift) & (wheelSlots - 1)
		t := w.slots[level][slot]
		w.slots[level][slot] = nil
		w.used[level] &^= 1 << slot
		for t != nil {
			next := t.entry.next
			w.due(t)
			t = next
		}
	}
}

// due wakes t, or moves it to a lower level.
func (w *wheel) due(t *Task) {
	if t.entry.due > w.now {
		w.insert(t)
		return
	}
	t.entry = timerEntry{}
	t.Wake(ReadyTimer)
}

// upcoming is the next tick at which a used slot is reached.
func (w *wheel) upcoming() int64 {
	next := int64(noTick)
	for level, used := range w.used {
		if used == 0 {
			continue
		}
		shift := wheelBits * level
		first := w.now>>shift + 1
		ahead := bits.TrailingZeros64(bits.RotateLeft64(used, -int(first&(wheelSlots-1))))
		next = min(next, (first+int64(ahead))<<shift)
	}
	return next
}
