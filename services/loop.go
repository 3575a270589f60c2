package services

import (
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// Loop runs Tasks one after the other on one goroutine. Whoever wakes a Task
// pushes it on a lock-free list and signals the goroutine only if it sleeps;
// the loop takes the whole list at once. A Task that panics is given up, the
// loop goes on.
type Loop struct {
	head     atomic.Pointer[Task] // newest first
	sleeping atomic.Bool
	fired    atomic.Bool // the alarm went off
	closing  atomic.Bool
	wakeup   chan struct{} // capacity 1; sent to only by who ended sleeping
	done     chan struct{}
	_        [64]byte // what others write stays off the cache lines of what follows

	wheel   wheel
	alarm   *time.Timer
	alarmAt int64 // tick the alarm is set for, noTick if not
	clock   func() time.Time
	epoch   time.Time
	scratch []byte
	buffers *buffers
	log     *slog.Logger
	count   loopCounters
}

type loopCounters struct {
	runs, sleeps, panics atomic.Uint64
}

// LoopStats counts what a Loop has done.
type LoopStats struct {
	Runs   uint64 `json:"runs"`   // tasks run
	Sleeps uint64 `json:"sleeps"` // times it had nothing to do
	Panics uint64 `json:"panics"` // tasks given up
}

func newLoop(o LoopOptions, epoch time.Time, b *buffers) *Loop {
	l := &Loop{
		wakeup:  make(chan struct{}, 1),
		done:    make(chan struct{}),
		alarmAt: noTick,
		clock:   o.Clock,
		epoch:   epoch,
		scratch: make([]byte, o.Scratch),
		buffers: b,
		log:     o.Log,
	}
	l.wheel.next = noTick
	return l
}

// Now is the loop's time: since its Loops were made.
func (l *Loop) Now() time.Duration { return l.clock().Sub(l.epoch) }

// Time converts the loop's time to the clock's.
func (l *Loop) Time(at time.Duration) time.Time { return l.epoch.Add(at) }

// Scratch is memory for the Task that runs, until it returns.
func (l *Loop) Scratch() []byte { return l.scratch }

// Stats counts what the loop has done.
func (l *Loop) Stats() LoopStats {
	return LoopStats{Runs: l.count.runs.Load(), Sleeps: l.count.sleeps.Load(), Panics: l.count.panics.Load()}
}

func (l *Loop) push(t *Task) {
	for {
		old := l.head.Load()
		t.next = old
		if l.head.CompareAndSwap(old, t) {
			break
		}
	}
	l.signal()
}

func (l *Loop) signal() {
	if l.sleeping.Load() && l.sleeping.CompareAndSwap(true, false) {
		l.wakeup <- struct{}{}
	}
}

// serve is the loop's goroutine; close waits for it.
func (l *Loop) serve() {
	defer close(l.done)
	for !l.closing.Load() {
		now := l.Now()
		l.wheel.advance(now)
		if batch := l.head.Swap(nil); batch != nil {
			l.runAll(reverse(batch), now)
			continue
		}
		l.sleep(now)
	}
	if l.alarm != nil {
		l.alarm.Stop()
	}
}

// reverse turns the list round, to the order of the wakes.
func reverse(t *Task) *Task {
	var first *Task
	for t != nil {
		t.next, first, t = first, t, t.next
	}
	return first
}

func (l *Loop) runAll(t *Task, now time.Duration) {
	n := uint64(0)
	for t != nil {
		next := t.next // t may be queued again as soon as it runs
		t.next = nil
		l.run(t, now)
		t = next
		n++
	}
	l.count.runs.Add(n)
}

func (l *Loop) run(t *Task, now time.Duration) {
	defer l.recover(t, now)
	ready := Ready(t.ready.Swap(0)) &^ readyQueued
	t.runner.Run(now, ready)
}

// recover keeps a panic of one task from ending the others.
func (l *Loop) recover(t *Task, now time.Duration) {
	v := recover()
	if v == nil {
		return
	}
	l.count.panics.Add(1)
	l.log.Error("task panicked, its connection is aborted", "panic", v, "stack", string(debug.Stack()))
	defer func() {
		if v := recover(); v != nil {
			l.log.Error("giving up a panicked task panicked too", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	t.runner.Panicked(now)
}

// sleep waits until a task is woken, a timer is due or the loop closes.
func (l *Loop) sleep(now time.Duration) {
	l.setAlarm(now)
	l.sleeping.Store(true)
	// Whoever came before the store saw no sleeper: look again.
	if l.head.Load() != nil || l.fired.Load() || l.closing.Load() {
		if l.sleeping.CompareAndSwap(true, false) {
			l.clearAlarm()
			return
		}
	}
	l.count.sleeps.Add(1)
	<-l.wakeup
	l.clearAlarm()
}

// clearAlarm takes note of an alarm that went off.
func (l *Loop) clearAlarm() {
	if l.fired.Swap(false) {
		l.alarmAt = noTick
	}
}

// setAlarm makes sure that the loop wakes for its next timer. An alarm that is
// early is left: it costs one wake-up, moving it costs something each time.
func (l *Loop) setAlarm(now time.Duration) {
	next := l.wheel.next
	if next >= l.alarmAt {
		return
	}
	l.alarmAt = next
	wait := time.Duration(next)*tick - now
	if l.alarm == nil {
		l.alarm = time.AfterFunc(wait, l.ring)
		return
	}
	l.alarm.Reset(wait)
}

func (l *Loop) ring() {
	l.fired.Store(true)
	l.signal()
}

func (l *Loop) close() {
	l.closing.Store(true)
	l.signal()
	<-l.done
}
