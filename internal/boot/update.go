package boot

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/image/slot"
	"github.com/lastack/lastack/internal/wholefile"
)

var errNoESP = errors.New("this box has no EFI partition of ours, it cannot be updated")

// Install writes a bundle into the other slot. The next boot tries it.
func (b *Box) install(r io.Reader, downgrade bool) (UpdateRecord, error) {
	var u UpdateRecord
	if b.esp == nil {
		return u, errNoESP
	}
	keys, err := bundle.Keys(b.path(bundle.KeyDir))
	if err != nil {
		return u, err
	}
	in, err := bundle.Read(r, keys)
	if err != nil {
		return u, err
	}
	h := b.currentHealth()
	u = UpdateRecord{Time: time.Now().UTC().Round(time.Second), From: b.release, To: in.Manifest.Release, Result: Installed, Up: h.Up}
	b.log.Info("update begins", "to", u.To.String(), "bytes", in.Manifest.Size())
	begun := time.Now()
	err = b.writeESP(func() error {
		u.Slot, err = b.esp.Install(in, slot.Update{Running: b.release, Slot: b.slot, Downgrade: downgrade})
		return err
	})
	if err != nil {
		b.log.Error("update refused, nothing has changed", "error", err)
		return u, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.story.add(u)
	b.saveStoryLocked()
	b.log.Info("update installed: the next boot tries it", "to", u.To.String(), "slot", u.Slot, "took", time.Since(begun).Round(time.Millisecond))
	return u, nil
}

// commit marks the running slot as good.
func (b *Box) commit(why string) error {
	if b.esp == nil || !b.slot.Valid() {
		return errNoESP
	}
	var news bool
	err := b.writeESP(func() (err error) {
		news, err = b.esp.Bless(b.slot)
		return err
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trial = false
	if news {
		b.story.now().Good = true
		if u := b.story.update(); u != nil && u.Slot == b.slot && u.Result == OnTrial {
			u.Result = Good
		}
		b.saveStoryLocked()
		b.log.Info("slot is good", "slot", b.slot, "release", b.release.String(), "why", why)
	}
	return nil
}

// rollback makes the other slot the next to boot, and tells what that is.
func (b *Box) rollback() (string, error) {
	if b.esp == nil || !b.slot.Valid() {
		return "", errNoESP
	}
	other := b.slot.Other()
	e, ok, err := b.esp.Entry(other)
	switch {
	case err != nil:
		return "", err
	case !ok:
		return "", fmt.Errorf("slot %s is empty: there is nothing to go back to", other)
	case e.Counted:
		return "", fmt.Errorf("slot %s is not good (%s): there is nothing to go back to", other, e.State())
	}
	if err := b.writeESP(func() error {
		if given, err := b.esp.GiveUp(b.slot); given || err != nil {
			return err // the tries of this one are gone, the other is next
		}
		return b.esp.Prefer(other)
	}); err != nil {
		return "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if u := b.story.update(); u != nil && u.Slot == b.slot && (u.Result == OnTrial || u.Result == Good) {
		u.Result, u.Why = Returned, "the operator asked for it"
		b.saveStoryLocked()
	}
	b.log.Warn("going back: the next boot is the other slot's", "slot", other, "release", e.Release.String())
	return fmt.Sprintf("slot %s (%s)", other, title(e)), nil
}

// title names what an entry boots.
func title(e slot.Entry) string {
	if e.Release.Version != "" {
		return e.Release.String()
	}
	return e.Title
}

// askReset makes the next boot forget everything on DATA.
func (b *Box) askReset() error {
	if b.esp == nil {
		return errNoESP
	}
	return b.writeESP(func() error {
		return wholefile.Write(b.path(filepath.Join("esp", resetMarker)), []byte("the next boot makes DATA anew\n"), 0o600)
	})
}

// Status is what the box says of itself.
type Status struct {
	Release   bundle.Release    `json:"release"`
	Kernel    string            `json:"kernel"`
	Hostname  string            `json:"hostname"`
	Uptime    time.Duration     `json:"uptime_ns"`
	Slot      slot.Slot         `json:"slot"`
	Slots     []SlotStatus      `json:"slots"`
	Trial     bool              `json:"trial"` // the running slot is not good yet
	Wrong     string            `json:"wrong,omitempty"`
	Stable    time.Duration     `json:"stable_ns"`
	Watchdog  string            `json:"watchdog"`
	Data      bool              `json:"data"`     // the partition is mounted; otherwise nothing is kept
	Problems  map[string]string `json:"problems"` // that stay, by the part they are of
	Boots     []BootRecord      `json:"boots"`
	Updates   []UpdateRecord    `json:"updates"`
	Appliance int               `json:"appliance_pid"` // 0 while it does not run
}

// SlotStatus is one slot.
type SlotStatus struct {
	Slot    slot.Slot `json:"slot"`
	Running bool      `json:"running"`
	Title   string    `json:"title"`
	State   string    `json:"state"`
}

func (b *Box) status() (Status, error) {
	s := Status{
		Release: b.release, Kernel: kernelRelease(), Hostname: b.hostname, Uptime: sinceBoot(), Slot: b.slot, Stable: b.stable,
		Watchdog: b.dog.String(), Data: b.dataMounted, Problems: make(map[string]string),
	}
	var err error
	if b.esp != nil {
		s.Slots, err = b.slots()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Trial, s.Appliance = b.trial, b.pid
	s.Boots, s.Updates = append(s.Boots, b.story.Boots...), append(s.Updates, b.story.Updates...)
	if b.trial && len(s.Boots) > 0 {
		s.Wrong = s.Boots[len(s.Boots)-1].Last
	}
	for part, what := range b.problems {
		s.Problems[part] = what
	}
	return s, err
}

func (b *Box) slots() (all []SlotStatus, err error) {
	for _, one := range []slot.Slot{slot.A, slot.B} {
		e, ok, err := b.esp.Entry(one)
		if err != nil {
			return all, err
		}
		row := SlotStatus{Slot: one, Running: one == b.slot, State: "empty"}
		if ok {
			row.Title, row.State = title(e), e.State()
			if row.Running && e.Bad() { // the loader has taken the try already
				row.State = fmt.Sprintf("on trial: the last of %d tries", e.Done)
			}
		}
		all = append(all, row)
	}
	return all, nil
}
