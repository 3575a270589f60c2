package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// processes are those of this rig's daemons that live.
func (r *rig) processes() (pids []int) {
	r.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, file := range all {
		b, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(b), r.file) || !strings.Contains(string(b), "\x00run\x00") {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(file, "/")[2]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (r *rig) killAll() {
	r.t.Helper()
	for {
		pids := r.processes()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
		for _, pid := range pids {
			eventually(r.t, 5*time.Second, "it has ended", func() bool { return hasEnded(pid) })
		}
		if len(pids) == 0 { // none was started by one of them meanwhile
			break
		}
	}
	// The last of its threads may still hold what it had open.
	eventually(r.t, 5*time.Second, "nobody answers", func() bool { _, err := r.admin.Status(r.t.Context()); return err != nil })
}

// phases are what a daemon may be in the middle of when it is killed.
var phases = map[string]func(r *rig, p *process){
	"start":   func(*rig, *process) {},
	"reload":  func(r *rig, p *process) { _ = p.cmd.Process.Signal(syscall.SIGHUP) },
	"drain":   func(r *rig, _ *process) { r.order("drain", "own", "--wait") },
	"stop":    func(_ *rig, p *process) { _ = p.cmd.Process.Signal(syscall.SIGTERM) },
	"upgrade": func(_ *rig, p *process) { _ = p.cmd.Process.Signal(syscall.SIGUSR2) },
	"suspend": func(r *rig, _ *process) { r.order("suspend") },
	"apply":   func(r *rig, _ *process) { r.order("config", "apply", r.file, "--confirm", "1s") },
	"restart": func(r *rig, _ *process) {
		next := filepath.Join(r.dir, "next.yaml")
		if text, err := os.ReadFile(r.file); err == nil && os.WriteFile(next, append(text, otherJournal...), 0o600) == nil {
			r.order("config", "apply", "--restart", next)
		}
	},
}

// otherJournal is a change that needs a restart.
const otherJournal = "state: {journal_interval: 2s}\n"

// order gives an order whose daemon may die over it.
func (r *rig) order(args ...string) {
	cmd := r.appliance(args...)
	if err := r.box.Start(cmd); err == nil {
		_ = cmd.Wait()
	}
}

// Whatever it does when it is killed, the next start works: cards and
// configuration are there, and each old connection goes on or is told.
func TestKillNineInTheMiddleOfEverything(t *testing.T) {
	t.Parallel()
	rounds, seed := 1, uint64(time.Now().UnixNano())
	if s := os.Getenv("APPLIANCE_SOAK"); s != "" {
		rounds = 20
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for name, begin := range phases {
		for range rounds {
			delay := time.Duration(random.Int64N(int64(400 * time.Millisecond)))
			if name == "restart" {
				delay *= 4 // a drain and a start
			}
			t.Run(fmt.Sprint(name, " after ", delay.Round(time.Millisecond)), func(t *testing.T) {
				t.Parallel()
				killed(t, begin, name, delay)
			})
		}
	}
}

func killed(t *testing.T, begin func(*rig, *process), name string, delay time.Duration) {
	r := newRig(t, nil)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	r.configure(`services:
  web: {type: proxy, listen: "wan0:7", backends: ["10.0.0.21:7"]}
  own: {type: echo, listen: "wan0:77"}
drain: {deadline: 500ms, fin_grace: 300ms}
`)
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	first := r.launch()
	var clients []net.Conn
	if name == "start" {
		time.Sleep(delay)
	} else {
		eventually(t, 20*time.Second, "the appliance answers", func() bool {
			_, err := r.admin.Status(t.Context())
			return err == nil
		})
		for range 20 {
			clients = append(clients, r.dial("192.0.2.10:7"), r.dial("192.0.2.10:77"))
		}
		for _, c := range clients {
			exchange(t, c, "before\n", "before\n")
		}
		time.Sleep(1200 * time.Millisecond) // the journal knows them
		done := make(chan struct{})
		go func() { defer close(done); begin(r, first) }()
		defer func() { <-done }()
		time.Sleep(delay)
	}
	r.killAll()
	p := r.start()
	var all sync.WaitGroup
	for i, c := range clients {
		all.Go(func() {
			if err := endedOrAlive(c); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if b, err := os.ReadFile(r.file); err != nil || string(b) != string(text) && (name != "restart" || string(b) != string(text)+otherJournal) {
		t.Errorf("the configuration is %q, %v", b, err)
	}
	c := r.dial("192.0.2.10:7")
	exchange(t, c, "after\n", "after\n")
	for _, c := range append(clients, c) {
		c.Close()
	}
	p.stop()
	left, err := filepath.Glob(filepath.Join(r.dir, "nic", "*0.json"))
	if err != nil || len(left) > 0 {
		t.Errorf("cards were not given back: %v, %v", left, err)
	}
}

// endedOrAlive waits until a connection is known to have ended, or answers.
func endedOrAlive(c net.Conn) error {
	buf := make([]byte, 64)
	for _, wait := range []time.Duration{2 * time.Second, 5 * time.Second} {
		if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		n, err := c.Read(buf)
		switch {
		case err == nil:
			return checkAnswer(buf[:n])
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil // it was told
		}
		// Nothing was said: then it must live.
		if _, err := io.WriteString(c, "alive?\n"); err != nil {
			return nil
		}
	}
	return errors.New("it neither lives nor was told that it has ended")
}

func checkAnswer(b []byte) error {
	if string(b) != "alive?\n" {
		return fmt.Errorf("it says %q", b)
	}
	return nil
}
