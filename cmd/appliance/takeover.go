package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/handover"
	"github.com/lastack/lastack/netif"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
)

// takeover is the new process's side of an upgrade (see upgrade.go), or the
// start after a suspended run (see suspend.go).
type takeover struct {
	line    *handover.Line // nil after a suspended run
	gap     time.Duration  // in which no process ran
	state   handedState
	sockets [][]*os.File // of each card
	flows   []byte
	conns   []byte
	loaded  *stack.Loaded
	// unclaimed are connections of services that are there no more.
	unclaimed []*stack.Conn
	began     time.Time // of the rest, about
	went      bool      // the old process has given its last word
}

// takeOver greets the old process on a file that was inherited, and returns the
// configuration that is in force there.
func takeOver(fd int) (*takeover, *config.Config, error) {
	line, err := handover.Join(os.NewFile(uintptr(fd), "hand-over"))
	if err != nil {
		return nil, nil, err
	}
	t := &takeover{line: line}
	conf, err := t.answer()
	var told *unreadableError
	if err != nil && !errors.As(err, &told) {
		err = errors.Join(err, t.refuse(err))
	}
	if err != nil {
		return nil, nil, errors.Join(err, line.Close())
	}
	return t, conf, nil
}

func (t *takeover) refuse(err error) error {
	if t.line == nil || t.went {
		return nil
	}
	return t.line.Refuse(err)
}

func (t *takeover) answer() (*config.Config, error) {
	if err := t.line.Within(readyWithin); err != nil {
		return nil, err
	}
	var hello greeting
	if err := t.line.ReceiveJSON("the greeting", &hello); err != nil {
		return nil, err
	}
	conf, err := config.Parse(hello.File, hello.Config)
	if err != nil {
		return nil, fmt.Errorf("version %s does not take the configuration: %w", version, err)
	}
	if err := hello.understood(); err != nil {
		told := &unreadableError{ready{version, err.Error()}}
		return nil, errors.Join(told, t.line.SendJSON("its first word", told.ready))
	}
	return conf, t.line.SendJSON("its first word", ready{Version: version})
}

// understood tells why what another version hands over cannot be read, or nil.
func (g *greeting) understood() error {
	if g.Form != handoverForm {
		return fmt.Errorf("version %s takes over state of form %d, and %s has form %d", version, handoverForm, g.Version, g.Form)
	}
	if g.Layout != flow.Layout() {
		return fmt.Errorf("version %s keeps flows in another form than %s", version, g.Version)
	}
	if err := stack.TrySample(bytes.NewReader(g.Sample)); err != nil {
		return fmt.Errorf("version %s cannot read the connections of %s: %w", version, g.Version, err)
	}
	return nil
}

// decode reads what is no connection.
func (t *takeover) decode(state []byte) error {
	if err := json.Unmarshal(state, &t.state); err != nil {
		return fmt.Errorf("read the state: %w", err)
	}
	return nil
}

// receive waits until the old process rests.
func (t *takeover) receive(cards []config.Interface) error {
	if err := t.line.Within(readyWithin + loadedWithin); err != nil {
		return err
	}
	body, files, err := t.line.Receive("the state")
	if err != nil {
		return err
	}
	if err := t.decode(body); err != nil {
		handover.CloseAll(files)
		return err
	}
	for i, c := range t.state.Cards {
		if i >= len(cards) || c.Name != cards[i].Name || len(c.MAC) != 6 || c.Sockets < 1 || c.Sockets > len(files) {
			handover.CloseAll(files)
			return fmt.Errorf("the state is about other cards")
		}
		t.sockets, files = append(t.sockets, files[:c.Sockets]), files[c.Sockets:]
	}
	if len(files) > 0 || len(t.sockets) != len(cards) {
		handover.CloseAll(files)
		return fmt.Errorf("the state is about other cards")
	}
	t.began = time.Now()
	if t.flows, _, err = t.line.Receive("the flows"); err != nil {
		return err
	}
	t.conns, _, err = t.line.Receive("the connections")
	return err
}

// loadFlows fills the table before its stack starts.
func (d *daemon) loadFlows() error {
	cards := make([]int, len(d.taking.state.Cards))
	for i, c := range d.taking.state.Cards { // another configuration may have others
		cards[i] = slices.IndexFunc(d.endpoints, func(e *netif.Endpoint) bool { return e.Name() == c.Name })
	}
	_, err := d.flows.Load(bytes.NewReader(d.taking.flows), cards, d.taking.gap)
	d.taking.flows = nil
	d.ids.Store(d.flows.LastID()) // those of the stack's connections are minded by the stack
	return err
}

// loadSessions makes connections and sessions again, while everything rests, and
// goes on in the old process's place.
func (d *daemon) loadSessions() error {
	t := d.taking
	began := time.Now()
	defer haste()()
	var err error
	if t.loaded, err = d.stack.Load(bufio.NewReader(bytes.NewReader(t.conns))); err != nil {
		return err
	}
	t.conns = nil
	unclaimed := maps.Clone(t.loaded.Conns)
	conn := func(id uint64) services.Conn {
		if c := t.loaded.Conns[id]; c != nil {
			delete(unclaimed, id)
			return c
		}
		return nil // a nil *Conn in the interface would not be nil
	}
	var account loaded
	for _, s := range d.supervisor.Services() {
		saved := t.state.Services[s.Name()]
		if saved == nil {
			continue // it is new
		}
		n, err := s.Load(saved, conn)
		if err != nil {
			return fmt.Errorf("service %s: %w", s.Name(), err)
		}
		account.Connections += n
	}
	t.unclaimed = slices.Collect(maps.Values(unclaimed))
	account.Lost = len(t.loaded.Lost) + len(t.unclaimed)
	for _, peer := range t.loaded.Lost {
		d.log.Warn("a connection could not be taken over", "peer", peer)
	}
	d.log.Debug("made connections again", "took", time.Since(began).Round(time.Millisecond))
	if t.line == nil {
		d.log.Info("goes on where the suspended run ended", "connections", account.Connections, "lost", account.Lost, "away", t.gap.Round(time.Millisecond))
		return nil
	}
	if err := t.line.SendJSON("its account", account); err != nil {
		return err
	}
	if _, _, err := t.line.Receive("go"); err != nil {
		return err
	}
	t.went = true
	d.log.Info("took over", "from", t.state.PID, "connections", account.Connections, "orphans", t.loaded.Orphans)
	return nil
}

// adopt makes the cards ours and lets everything run.
func (d *daemon) adopt() error {
	t := d.taking
	var errs []error
	for _, c := range t.state.Cards {
		if t.line == nil {
			break // they were claimed
		}
		nic, err := netif.Adopt(c.Name, netif.ClaimOptions{StateDir: d.stateDir, Log: d.log}, t.state.PID)
		if err != nil {
			errs = append(errs, err) // it works all the same, but will not be given back
			continue
		}
		d.nics = append(d.nics, nic)
	}
	for _, ep := range d.endpoints {
		ep.Resume()
	}
	t.loaded.Go()
	if n := d.flows.ResetUnowned(); n > 0 {
		d.log.Warn("connections of services that are there no more were reset", "connections", n)
	}
	if t.line == nil {
		d.stack.Announce()
		d.forgetJournals()
	} else {
		d.started = t.state.Began
	}
	d.flows.OpenWindows()
	d.loops.Resume()
	for _, c := range t.unclaimed {
		c.Abort() // its peer is told
	}
	return errors.Join(errs...)
}

// took tells the old process that it may end.
func (d *daemon) took() {
	if line := d.taking.line; line != nil {
		if err := errors.Join(line.SendJSON("its last word", struct{}{}), line.Close()); err != nil {
			d.log.Warn("the old process was not told that it may end", "error", err)
		}
	}
	d.taking = nil
}

func contextWithin(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
