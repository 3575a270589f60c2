package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/image/slot"
	"github.com/lastack/lastack/internal/wholefile"
)

const (
	mostBoots   = 40
	mostUpdates = 20
)

// Story is what the box remembers of its boots and updates, on DATA.
type Story struct {
	Boots   []BootRecord   `json:"boots"`   // the newest last
	Updates []UpdateRecord `json:"updates"` // the newest last
}

// BootRecord is one boot that came as far as DATA.
type BootRecord struct {
	Number  int            `json:"number"`
	Time    time.Time      `json:"time"` // by the box's clock at the start
	Slot    slot.Slot      `json:"slot"`
	Release bundle.Release `json:"release"`
	Try     int            `json:"try,omitempty"`   // 1 is the first of a new slot; 0 for a good one
	Ready   bool           `json:"ready,omitempty"` // the appliance came to serve
	Good    bool           `json:"good,omitempty"`  // the slot was good, or was found good
	Last    string         `json:"last,omitempty"`  // the last trouble that was seen
	End     string         `json:"end,omitempty"`   // why it ended; "" if it goes on, or nothing could be written
}

// UpdateRecord is one update.
type UpdateRecord struct {
	Time   time.Time      `json:"time"`
	From   bundle.Release `json:"from"`
	To     bundle.Release `json:"to"`
	Slot   slot.Slot      `json:"slot"`
	Result Result         `json:"result"`
	Why    string         `json:"why,omitempty"`
	Up     []string       `json:"up,omitempty"` // the interfaces that had a link then
}

// Result is what has become of an update.
type Result string

// The results.
const (
	Installed  Result = "installed"   // not booted yet
	OnTrial    Result = "on trial"    // it runs and is not good yet
	Good       Result = "good"        // it was, and is kept
	RolledBack Result = "rolled back" // the box went back by itself
	Returned   Result = "taken back"  // the operator went back
	Replaced   Result = "replaced"    // by another update, before it was booted
)

// silent is the end of a boot that could not say why.
const silent = "it ended without a word: a power cut, a crash of the kernel, or a hang"

// load reads the story. A damaged one is begun anew, which the error tells.
func loadStory(file string) (s Story, err error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return Story{}, fmt.Errorf("what was known of former boots is lost: %w", err)
	}
	return s, nil
}

func (s *Story) save(file string) error {
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	return wrap("remember this boot", wholefile.Write(file, append(text, '\n'), 0o600))
}

// begin adds a boot. If the one before could not say why it ended it's told now;
// watchdog says that the hardware's has reset the box.
func (s *Story) begin(now BootRecord, watchdog bool) {
	now.Number = 1
	if n := len(s.Boots); n > 0 {
		last := &s.Boots[n-1]
		now.Number = last.Number + 1
		if last.End == "" {
			last.End = silent
			if watchdog {
				last.End = "the hardware watchdog has reset the box: it had no sign of life for too long"
			}
			if last.Last != "" {
				last.End += " (seen before: " + last.Last + ")"
			}
		}
	}
	s.Boots = append(s.Boots, now)
	s.Boots = s.Boots[max(0, len(s.Boots)-mostBoots):]
}

// now is this boot's record.
func (s *Story) now() *BootRecord { return &s.Boots[len(s.Boots)-1] }

// before is the boot before this one, nil if none is known.
func (s *Story) before() *BootRecord {
	if len(s.Boots) < 2 {
		return nil
	}
	return &s.Boots[len(s.Boots)-2]
}

// add remembers an update.
func (s *Story) add(u UpdateRecord) {
	if last := s.update(); last != nil && last.Result == Installed {
		last.Result = Replaced
	}
	s.Updates = append(s.Updates, u)
	s.Updates = s.Updates[max(0, len(s.Updates)-mostUpdates):]
}

// update is the last one, nil if none is known.
func (s *Story) update() *UpdateRecord {
	if len(s.Updates) == 0 {
		return nil
	}
	return &s.Updates[len(s.Updates)-1]
}

// judge finds out at a boot what has become of the last update, from what runs
// and from the boot entries. It tells whether the box has just come back from
// one that did not work.
func (s *Story) judge(own slot.Slot, entries []slot.Entry) (rolledBack bool) {
	u := s.update()
	if u == nil || u.Result == Good || u.Result == RolledBack || u.Result == Returned || u.Result == Replaced {
		return false
	}
	at := slices.IndexFunc(entries, func(e slot.Entry) bool { return e.Slot == u.Slot })
	switch {
	case own == u.Slot && at >= 0 && entries[at].Counted:
		u.Result = OnTrial
	case own == u.Slot:
		u.Result, u.Why = Good, ""
	case at >= 0 && entries[at].Bad():
		u.Result, u.Why = RolledBack, s.why(*u, entries[at].Done)
		return true
	case at < 0:
		u.Result, u.Why = RolledBack, "its boot entry is gone: the power was cut before it was complete"
		return true
	}
	return false
}

// why tells what is known of the boots that failed.
func (s *Story) why(u UpdateRecord, tries int) string {
	var reasons []string
	seen := 0
	for _, b := range s.Boots {
		if b.Slot != u.Slot || b.Release != u.To || b.Try == 0 || b.Time.Before(u.Time.Add(-time.Minute)) {
			continue
		}
		seen++
		reasons = append(reasons, fmt.Sprintf("try %d: %s", b.Try, b.End))
	}
	if missing := tries - seen; missing > 0 {
		what := fmt.Sprintf("%d of %d tries", missing, tries)
		if seen == 0 {
			what = fmt.Sprintf("each of %d tries", tries)
		}
		reasons = append([]string{what + " ended before the data partition was there: the kernel could not be loaded, or crashed, or hung"}, reasons...)
	}
	return strings.Join(reasons, "; ")
}
