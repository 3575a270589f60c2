package boot

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// procs are the processes below process 1: those it has started, whose end
// somebody waits for, and orphans, which are only reaped.
type procs struct {
	sigs chan os.Signal

	mu   sync.Mutex // guards what follows; held from fork until the process is known
	wait map[int]chan syscall.WaitStatus
}

// reap begins to, for as long as the machine runs. start guards the goroutine.
func reap(start func(func())) *procs {
	p := &procs{sigs: make(chan os.Signal, 1), wait: make(map[int]chan syscall.WaitStatus)}
	signal.Notify(p.sigs, syscall.SIGCHLD)
	start(func() {
		for range p.sigs {
			p.collect()
		}
	})
	return p
}

// collect takes every process that has ended.
func (p *procs) collect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c, ours := p.wait[pid]; ours {
			c <- status // has room
			delete(p.wait, pid)
		}
	}
}

// start starts a program. Its status comes on the channel, once.
func (p *procs) start(path string, args []string, attr *os.ProcAttr) (*os.Process, <-chan syscall.WaitStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one, err := os.StartProcess(path, args, attr)
	if err != nil {
		return nil, nil, err
	}
	c := make(chan syscall.WaitStatus, 1)
	p.wait[one.Pid] = c
	return one, c, nil
}

// adopt waits for a process that another has started, which is ours once that one has ended.
func (p *procs) adopt(pid int) <-chan syscall.WaitStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := make(chan syscall.WaitStatus, 1)
	p.wait[pid] = c
	return c
}

// killAll ends what is left, process 1 apart.
func killAll() {
	_ = unix.Kill(-1, unix.SIGKILL) // ESRCH: nobody is left
}
