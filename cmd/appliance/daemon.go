package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/sshd"
	"github.com/lastack/lastack/netif"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
)

// daemon is everything that runs, in the order start makes it. stop takes it
// down in the reverse order, and is the only one to do so.
//
// Its long-lived goroutines: per card one for each receive queue, one that
// sends what was collected and one that watches the link (endpoints), one that
// sends delayed ACKs (delays); gVisor's TCP processors and one for router
// advertisements (stack), one event loop for each thread (loops), one that
// accepts on the admin socket (admin), one for signals (stopSignals). Of serve is
// the one that gives memory back (tidy) and the signs of life (manager). The
// keeper has one that writes the journals, and after a crash one that sweeps; the
// leases have two for each interface with DHCP; one asks for the time; SSH (ssh) has one for each listener
// and some for each connection.
type daemon struct {
	cfg       atomic.Pointer[config.Config] // that is in force
	log       *slog.Logger
	stateDir  string
	started   time.Time
	draining  atomic.Bool
	askStop   func()      // as SIGTERM
	asked     func() bool // to stop
	manager   *manager
	binary    string // this program's file, and args what it was started with
	args      []string
	trial     *trial        // that this run tries, until it is settled; or nil
	taking    *takeover     // of the process that this one takes the place of, until it serves; or nil
	succeeded chan struct{} // closed once all was handed over
	heir      *os.Process   // who has it then; nil if that is a file
	next      string        // the binary that starts in this process when all is drained, or ""
	toTry     bool          // it is told to try what lies in the state directory

	reloading sync.Mutex                // held while the configuration changes; guards the rest
	retired   map[services.Service]bool // those that a reload has taken out
	pending   *pending                  // nil if no change waits for its confirmation

	nics       []*netif.NIC
	gate       stack.Gate
	clock      *stack.Clock
	flows      *flow.Table
	ids        *atomic.Uint64 // of connections, the stack's and the table's
	cards      []*flow.Card   // one for each endpoint
	endpoints  []*netif.Endpoint
	delays     []*stack.AckDelay // one for each endpoint
	stack      *stack.Stack
	loops      *services.Loops
	supervisor *services.Supervisor
	admin      *admin.Server
	keeper     *keeper // nil without a journal
	leases     *leases
	ssh        atomic.Pointer[sshd.Server] // nil without admin.ssh
	time       atomic.Pointer[timekeeper]
}

// conf is the configuration that is in force.
func (d *daemon) conf() *config.Config { return d.cfg.Load() }

// start takes the cards and serves. After an error stop undoes what was done.
func (d *daemon) start(ctx context.Context) error {
	var clock, loops time.Duration
	switch t := d.taking; {
	case t != nil && t.line != nil:
		if err := t.receive(d.conf().Interfaces); err != nil {
			return err
		}
	case d.conf().Admin.Socket != "":
		if err := admin.Free(d.conf().Admin.Socket); err != nil { // before anything is touched
			return err
		}
	}
	if t := d.taking; t != nil {
		clock, loops = t.state.Clock+t.gap, t.state.Loops+t.gap
	}
	d.clock = stack.NewClock(clock)
	d.leases = newLeases(d)
	d.ids = new(atomic.Uint64)
	d.flows = flow.New(flow.Options{Policies: d.conf().Policies, Clock: d.clock, IDs: func() uint64 { return d.ids.Add(1) }})
	d.flows.BoundCarried(d.conf().Carried.Max, d.conf().Carried.Full)
	links, err := d.openCards()
	if err != nil {
		return err
	}
	if d.taking != nil {
		if err := d.loadFlows(); err != nil {
			return err
		}
	}
	d.stack, err = stack.New(ctx, stack.Options{
		Config: d.conf(), Links: links, Gate: &d.gate, Flows: d.flows, Owned: d.taking != nil, Log: d.log, Clock: d.clock, IDs: d.ids,
		OnAddress: d.leases.advertise,
	})
	if err != nil {
		return err
	}
	if d.taking != nil {
		d.leases.takeOver(d.taking.state)
	}
	d.loops = services.NewLoops(services.LoopOptions{N: runtime.GOMAXPROCS(0), Log: d.log, Since: loops})
	if d.taking != nil {
		d.loops.Pause()
	}
	all, err := d.makeServices()
	if err != nil {
		return err
	}
	d.supervisor = services.NewSupervisor(all...)
	if err := d.supervisor.Start(ctx); err != nil {
		return err
	}
	if d.taking != nil {
		d.log.Debug("made a stack and services", "after", time.Since(d.taking.began).Round(time.Millisecond))
		if err := d.loadSessions(); err != nil {
			return err
		}
		if err := d.adopt(); err != nil {
			d.log.Warn("a card will not be given back to the kernel in the end: `appliance nic release` does it", "error", err)
		}
	}
	for _, s := range all {
		d.log.Info("serving", "service", s.Name(), "type", s.Type(), "listen", s.Addrs())
	}
	if err := d.startSSH(); err != nil { // who asks the socket finds it there
		return err
	}
	if socket := d.conf().Admin.Socket; socket != "" {
		if d.admin, err = admin.Serve(socket, d, d.log); err != nil {
			return err
		}
	}
	d.startTime()
	if err := d.leases.start(); err != nil {
		return err
	}
	if d.conf().State.Journal {
		d.keeper = keep(d)
	}
	return nil
}

// renew makes it as before start, after stop.
func (d *daemon) renew() {
	d.taking, d.nics, d.gate, d.cards, d.endpoints, d.delays = nil, nil, stack.Gate{}, nil, nil, nil
	d.stack, d.loops, d.supervisor, d.admin, d.keeper, d.leases = nil, nil, nil, nil, nil, nil
	d.ssh.Store(nil)
}

// openCards claims the cards and starts their endpoints, all of them or an
// error. Those of a process whose place is taken do not run yet.
func (d *daemon) openCards() ([]stack.Link, error) {
	links := make([]stack.Link, 0, len(d.conf().Interfaces))
	for n, i := range d.conf().Interfaces {
		o := netif.EndpointOptions{Queues: i.Queues, Log: d.log, OnLink: func(up bool) { d.leases.link(i.Name, up) }}
		var mac [6]byte
		o.Paused = d.taking != nil
		if t := d.taking; t != nil && t.line != nil {
			mac, o.Inherited = [6]byte(t.state.Cards[n].MAC), t.sockets[n]
		} else {
			nic, err := netif.Claim(i.Name, netif.ClaimOptions{StateDir: d.stateDir, MTU: i.MTU, Log: d.log})
			if err != nil {
				return nil, err
			}
			d.nics = append(d.nics, nic)
			mac = [6]byte(nic.MAC())
		}
		delay, card := stack.NewAckDelay(), d.flows.Card()
		card.Own(mac)
		if d.taking == nil && d.conf().State.Journal {
			d.recall(n, i)
			d.resume(n, i)
		}
		o.Filter = stack.Filters{&d.gate, card, delay}
		ep, err := netif.Open(i.Name, o)
		if err != nil {
			return nil, err
		}
		delay.Start(ep.Send)
		card.Start(ep.Send)
		card.Bind(ep, ep.Deliver)
		d.cards = append(d.cards, card)
		d.endpoints, d.delays = append(d.endpoints, ep), append(d.delays, delay)
		links = append(links, stack.Link{Interface: i, Endpoint: ep.Port(0)})
	}
	return links, nil
}

func (d *daemon) makeServices() ([]services.Service, error) {
	conf := d.conf()
	all := make([]services.Service, 0, len(conf.Services))
	for _, c := range conf.Services {
		one, err := d.makeService(d.leases.listening(c), conf.Policies[c.Policy])
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// drain ends every connection and tells how well that went.
func (d *daemon) drain(stop *stopSignals) services.Report {
	d.draining.Store(true)
	if stop.quit.Err() != nil {
		return d.reset()
	}
	// SIGQUIT resets what the drain still waits for, and so ends it.
	cancel := context.AfterFunc(stop.quit, d.supervisor.Close)
	defer cancel()
	d.flows.KeepResets()
	done := make(chan struct{})
	var progress sync.WaitGroup
	progress.Go(func() { d.logProgress(done) })
	report := d.supervisor.Drain(stop.hurry, d.howToStop())
	close(done)
	progress.Wait()
	if ssh := d.ssh.Load(); ssh != nil { // the last, so that the drain can be watched
		if err := ssh.Close(); err != nil {
			d.log.Warn("SSH did not end cleanly", "error", err)
		}
	}

	ctx, end := context.WithTimeout(stop.quit, d.howToStop().FinGrace)
	defer end()
	if n := d.stack.Settle(ctx); n > 0 {
		d.log.Warn("some FINs stayed unacknowledged", "connections", n)
		report.Unacked = max(report.Unacked, n)
	}
	if report.Reset > 0 {
		d.flows.RepeatResets(stop.quit, resetRepeats, resetPause)
	}
	logRest(d.log, report)
	d.log.Info("drained", "clean", report.Clean, "reset", report.Reset, "unacked", report.Unacked,
		"took", report.Took.Round(time.Millisecond))
	if err := saveReport(d.stateDir, report); err != nil {
		d.log.Warn("no report is left", "error", err)
	}
	return report
}

// A RST may be lost as anything else, and nobody repeats it: those of a drain
// are sent three times more. With one frame of twenty lost, one peer in 160,000
// misses all.
const (
	resetRepeats = 3
	resetPause   = 150 * time.Millisecond
)

// howToStop is the drain that ends the process.
func (d *daemon) howToStop() config.Drain {
	if d.next != "" {
		return d.conf().Drain.For("upgrade")
	}
	return d.conf().Drain.For("shutdown")
}

// stopTime is the most that drain and stop may take.
func (d *daemon) stopTime() time.Duration {
	how := d.howToStop()
	return how.Announce + how.Max + how.FinGrace + 5*time.Second // what settles, and the cards
}

// reset ends every connection with RST.
func (d *daemon) reset() services.Report {
	live := make(map[uint64]bool)
	for _, row := range d.Conns() {
		live[row.ID] = true
	}
	d.supervisor.Close()
	var report services.Report
	for _, e := range d.Ended() {
		if live[e.ID] && e.Outcome == services.Reset {
			report.Rest = append(report.Rest, e)
		}
	}
	report.Reset = len(live)
	logRest(d.log, report)
	return report
}

// logProgress tells once a second how many connections a drain waits for.
func (d *daemon) logProgress(done <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			var active, settling int64
			for _, s := range d.supervisor.Services() {
				a, b := s.Left()
				active, settling = active+a, settling+b
			}
			d.log.Info("draining", "connections", active, "settling", settling)
		}
	}
}

// stop undoes start, the last first: services before the frames they send,
// frames before the stack, because gVisor resets what it still knows, and the
// cards go back when nobody uses them.
func (d *daemon) stop() error {
	var errs []error
	if d.taking != nil && d.loops != nil {
		d.loops.Resume() // or services would wait for them
	}
	if d.admin != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		errs = append(errs, d.admin.Close(ctx))
		cancel()
	}
	if d.keeper != nil {
		d.keeper.close()
	}
	if t := d.time.Swap(nil); t != nil {
		t.close()
	}
	if d.leases != nil {
		d.leases.close()
	}
	if ssh := d.ssh.Load(); ssh != nil {
		errs = append(errs, ssh.Close())
	}
	if d.supervisor != nil {
		d.supervisor.Close()
	}
	for i, ep := range d.endpoints {
		d.delays[i].Close() // it still sends
		d.cards[i].Start(nil)
		if err := ep.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", ep.Name(), err))
		}
	}
	if d.stack != nil {
		d.stack.Close()
	}
	if d.loops != nil {
		d.loops.Close()
	}
	if d.taking != nil && !d.taking.went {
		return errors.Join(append(errs, d.taking.line.Close())...) // all of it is still another process's
	}
	if len(d.cards) > 0 && d.conf().State.Journal { // also after a start that failed
		errs = append(errs, d.saveTimeWaits())
	}
	if d.keeper != nil {
		errs = append(errs, d.keeper.forget()) // while the cards are ours: their files are too
	}
	for i := len(d.nics) - 1; i >= 0; i-- {
		errs = append(errs, d.nics[i].Release())
	}
	return errors.Join(errs...)
}
