package services

import (
	"sync/atomic"
	"time"
)

// Ready says why a Task runs: the bits given to Wake since its last run.
type Ready uint32

// The bits of Ready.
const (
	ReadyTimer   Ready = 1 << iota // its timer is due
	ReadyStart                     // it is new, or goes on where it left off
	ReadyClient                    // something happened on the client's connection
	ReadyBackend                   // something happened on the backend's connection
	ReadyDrain                     // its server drains, or drains with a new deadline
	ReadyStop                      // its server stops now
	ReadyEnd                       // the operator ends it, in order
	ReadyKill                      // the operator ends it at once
	ReadyLost                      // an address of ours that it is on goes away

	readyQueued Ready = 1 << 31 // it is in its loop's list
)

// Runner is what a Task runs. Both methods are called by the Task's loop only.
type Runner interface {
	// Run does what is ready, without blocking. now is the loop's time.
	Run(now time.Duration, ready Ready)
	// Panicked is called when Run panicked, to give up what it worked on.
	Panicked(now time.Duration)
}

// Task is something a Loop runs whenever it is woken. It is embedded in what
// it works on, so that waking, queueing and timing it allocate nothing. Each
// has one timer.
type Task struct {
	loop   *Loop
	runner Runner
	ready  atomic.Uint32
	next   *Task // in the loop's list, owned by it while readyQueued
	entry  timerEntry
}

// Init binds the task to its loop, before anything else.
func (t *Task) Init(l *Loop, r Runner) { t.loop, t.runner = l, r }

// Loop is the one that runs the task.
func (t *Task) Loop() *Loop { return t.loop }

// Wake makes the loop run the task soon, with r among its Ready bits. It may
// be called from any goroutine and with locks held: it only queues.
func (t *Task) Wake(r Ready) {
	want := uint32(r | readyQueued)
	// Most wakes find the task queued for the same reason: look before writing.
	if t.ready.Load()&want == want {
		return
	}
	if Ready(t.ready.Or(want))&readyQueued == 0 {
		t.loop.push(t)
	}
}

// Arm wakes the task with ReadyTimer at the given time of the loop, up to 10
// ms late, instead of at what was armed before. Only the loop may call it.
func (t *Task) Arm(at time.Duration) { t.loop.wheel.set(t, at) }

// ArmBy is Arm, unless the timer is armed for an earlier time already.
func (t *Task) ArmBy(at time.Duration) {
	if due := tickAfter(at); t.entry.due == 0 || due < t.entry.due {
		t.loop.wheel.set(t, at)
	}
}

// Disarm stops the timer. A ReadyTimer under way may still arrive.
func (t *Task) Disarm() { t.loop.wheel.remove(t) }
