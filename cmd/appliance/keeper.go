package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/journal"
	"github.com/lastack/lastack/netif"
	"github.com/lastack/lastack/stack/flow"
)

// linkPatience is how long a sweep waits for cards that have no link yet: after
// a power cut the appliance may be up before its switch.
const linkPatience = 5 * time.Second

// keeper keeps the journals of a daemon's cards while it runs, and sweeps what
// a crash has left. It owns the goroutines that do so.
type keeper struct {
	d    *daemon
	dir  string
	stop context.CancelFunc
	wg   sync.WaitGroup

	written []flow.Set // what each card's journal tells; a Set of no journal is notWritten
	failing []bool     // of each card: its journal could not be written, and that was said
}

// notWritten is the Set of nothing: the first look writes or removes the file.
var notWritten = flow.Set{N: -1}

// recall takes in what the last run has left about a card, if it has crashed.
func (d *daemon) recall(n int, card config.Interface) {
	now, err := journal.Now()
	if err != nil {
		d.log.Warn("the journal of connections is not used", "error", err)
		return
	}
	j, err := journal.Load(journal.Alive, d.journalDir(), card.Name, now)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		d.log.Warn("the journal of connections is not used: peers find out by themselves", "error", err)
		return
	}
	d.log.Info("the last run has crashed with connections open: their peers will be told", "interface", card.Name,
		"connections", j.Len(), "age", j.Age.Round(time.Millisecond))
	d.flows.Recall(n, j, d.owns(card))
}

// resume goes on with a card's connections that were in TIME-WAIT when the last
// run stopped. What it tells is used once.
func (d *daemon) resume(n int, card config.Interface) {
	now, err := journal.Now()
	if err != nil {
		return // recall has said so
	}
	j, err := journal.Load(journal.TimeWait, d.journalDir(), card.Name, now)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		d.log.Warn("connections in TIME-WAIT are forgotten", "error", err)
	} else if got := d.flows.RestoreTimeWaits(n, j, d.owns(card), d.policyAt); got > 0 {
		d.log.Info("connections of the last run are still in TIME-WAIT", "interface", card.Name, "connections", got, "away", j.Age.Round(time.Millisecond))
	}
	if err := journal.Remove(journal.TimeWait, d.journalDir(), card.Name); err != nil {
		d.log.Warn("what the last run has left would be read again", "error", err)
	}
}

// policyAt names the policy of the service at a local address; connections that
// we dialled have none there.
func (d *daemon) policyAt(addr netip.AddrPort) string {
	kept := make(map[string][]netip.Addr)
	for _, card := range d.conf().Interfaces {
		if a := d.leases.keptAddr(card); a.IsValid() {
			kept[card.Name] = []netip.Addr{a}
		}
	}
	for _, s := range d.conf().Services {
		if slices.Contains(addrsOf(s.With(kept)), addr) {
			return s.Policy
		}
	}
	return "default"
}

// saveTimeWaits writes down what is in TIME-WAIT when the daemon stops.
func (d *daemon) saveTimeWaits() error {
	now, err := journal.Now()
	if err != nil {
		return err
	}
	var errs []error
	for i, card := range d.conf().Interfaces[:len(d.cards)] {
		w, err := journal.Create(journal.TimeWait, d.journalDir(), card.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		n := 0
		d.flows.SaveTimeWaits(i, func(c *journal.Conn) {
			w.Add(c)
			n++
		})
		errs = append(errs, w.Commit(now))
		if n == 0 {
			errs = append(errs, journal.Remove(journal.TimeWait, d.journalDir(), card.Name))
		}
	}
	return errors.Join(errs...)
}

// owns tells which addresses are a card's, that of a lease of before among them:
// whether it still is, is known soon (see settleLeases).
func (d *daemon) owns(card config.Interface) func(netip.Addr) bool {
	kept := d.leases.keptAddr(card)
	return func(a netip.Addr) bool {
		return a == kept || slices.ContainsFunc(card.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
	}
}

// journalDir is where the cards' files are, which Claim has made.
func (d *daemon) journalDir() string { return cmp.Or(d.stateDir, netif.DefaultStateDir) }

// keep begins to write the journals of a daemon that serves, and sweeps if there
// is something to sweep.
func keep(d *daemon) *keeper {
	ctx, stop := context.WithCancel(context.Background())
	k := &keeper{d: d, dir: d.journalDir(), stop: stop, written: slices.Repeat([]flow.Set{notWritten}, len(d.cards)),
		failing: make([]bool, len(d.cards))}
	k.wg.Go(func() { k.run(ctx) })
	if _, crashed := d.flows.Swept(); crashed {
		k.wg.Go(func() { k.sweep(ctx) })
	}
	return k
}

// close ends the goroutines and waits. The journals stay.
func (k *keeper) close() {
	k.stop()
	k.wg.Wait()
}

// forget removes the journals: the end was no crash. It comes after close.
func (k *keeper) forget() error {
	var errs []error
	for _, i := range k.d.conf().Interfaces {
		errs = append(errs, journal.Remove(journal.Alive, k.dir, i.Name))
	}
	return errors.Join(errs...)
}

func (k *keeper) run(ctx context.Context) {
	for {
		size := k.look()
		timer := time.NewTimer(journal.Pause(size, k.d.conf().State.JournalInterval))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// look writes the journals of cards whose connections have changed, and returns
// the size of all journals in bytes.
func (k *keeper) look() (size int) {
	for i, set := range k.d.flows.Sets() {
		size += set.N * journal.RecordSize
		if set == k.written[i] {
			continue
		}
		err := k.write(i, set.N)
		if err == nil {
			k.written[i], k.failing[i] = set, false
			continue
		}
		k.written[i] = notWritten
		if !k.failing[i] { // once, not every second
			k.failing[i] = true
			k.d.log.Warn("the journal of connections is not kept: after a crash peers would not be told",
				"interface", k.d.conf().Interfaces[i].Name, "error", err)
		}
	}
	return size
}

func (k *keeper) write(card, n int) error {
	name := k.d.conf().Interfaces[card].Name
	if n == 0 {
		return journal.Remove(journal.Alive, k.dir, name)
	}
	now, err := journal.Now()
	if err != nil {
		return err
	}
	w, err := journal.Create(journal.Alive, k.dir, name)
	if err != nil {
		return err
	}
	k.d.flows.Journal(card, w.Add)
	return w.Commit(now)
}

func (k *keeper) sweep(ctx context.Context) {
	for end := time.Now().Add(linkPatience); !k.linksUp() && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
	k.settleLeases(ctx)
	logSweep(k.d.log, k.d.flows.Sweep(ctx))
}

// leasePatience is how long a sweep waits for the address of a lease of before:
// longer than its server is waited for.
const leasePatience = 10 * time.Second

// settleLeases waits until it's known which addresses of before are still ours,
// and leaves out the connections of the others.
func (k *keeper) settleLeases(ctx context.Context) {
	for end := time.Now().Add(leasePatience); k.d.leases.rebooting() && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
	for _, card := range k.d.conf().Interfaces {
		kept := k.d.leases.keptAddr(card)
		if one, ok := k.d.leases.lease(card.Name); kept.IsValid() && (!ok || one.Prefix.Addr() != kept) {
			k.d.flows.Disown(kept)
		}
	}
}

func (k *keeper) linksUp() bool {
	return !slices.ContainsFunc(k.d.endpoints, func(e *netif.Endpoint) bool { return !e.Up() })
}

func logSweep(log *slog.Logger, r flow.SweepReport) {
	log.Info("swept the connections of before the crash", "found", r.Found, "asked", r.Asked, "ended", r.Ended, "gone", r.Gone,
		"silent", r.Silent, "skipped", r.Skipped, "took", r.Took.Round(time.Millisecond))
}
