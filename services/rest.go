package services

import (
	"sync"
	"time"
)

// rest is what keeps loops at rest: a task that waits, on each of them.
type rest struct {
	mu   sync.Mutex
	goOn chan struct{} // nil while they run; closed by Resume
}

// sleeper is the task on one loop.
type sleeper struct {
	Task
	came chan<- struct{}
	goOn <-chan struct{}
}

// Run says that the loop rests, and waits for Resume.
func (s *sleeper) Run(time.Duration, Ready) {
	s.came <- struct{}{}
	<-s.goOn
}

// Panicked has nothing to give up.
func (s *sleeper) Panicked(time.Duration) {}

// Pause brings all loops to rest: when it returns no task runs, and none will
// until Resume. What is woken meanwhile, or due, runs then. The caller may do
// with tasks what else their loop alone may. It may be called again, as Resume may.
func (ls *Loops) Pause() {
	ls.rest.mu.Lock()
	defer ls.rest.mu.Unlock()
	if ls.rest.goOn != nil {
		return
	}
	ls.rest.goOn = make(chan struct{})
	came := make(chan struct{}, len(ls.all))
	for _, l := range ls.all {
		s := &sleeper{came: came, goOn: ls.rest.goOn}
		s.Init(l, s)
		s.Wake(ReadyStart)
	}
	for range ls.all {
		<-came
	}
}

// Resume goes on after Pause.
func (ls *Loops) Resume() {
	ls.rest.mu.Lock()
	defer ls.rest.mu.Unlock()
	if ls.rest.goOn != nil {
		close(ls.rest.goOn)
		ls.rest.goOn = nil
	}
}
