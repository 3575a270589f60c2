package boot

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Health is what the appliance says of itself on its socket.
type Health struct {
	Serving bool
	Up      []string // interfaces with a link
	Down    []string // and without
	Quiet   []string // services that do not serve
}

const (
	beat       = time.Second     // of the health loop
	askEvery   = 5 * time.Second // the appliance
	askTimeout = 4 * time.Second

	// DefaultStable is how long all must be well before a new slot is good.
	DefaultStable = time.Minute
	// DefaultTrial is how long a new slot has for that before the box boots again.
	DefaultTrial = 6 * time.Minute
)

// answer is what came of one question.
type answer struct {
	health Health
	err    error
}

// ask asks the appliance how it is; the answer comes on the channel.
func (b *Box) ask() {
	b.asking = true
	config := b.configFile()
	b.start(func() {
		ctx, cancel := context.WithTimeout(b.ctx, askTimeout)
		defer cancel()
		h, err := b.o.Probe(ctx, config)
		select {
		case b.answers <- answer{h, err}:
		case <-b.ctx.Done():
		}
	})
}

// answered looks at an answer.
func (b *Box) answered(a answer) {
	b.asking = false
	b.mu.Lock()
	b.health = a.health
	b.mu.Unlock()
	if a.err != nil {
		b.askErr = a.err.Error()
		return
	}
	b.askErr, b.heard = "", true
	b.appliance.answered = time.Now()
}

// tick is one turn of the health loop, and the only place that feeds the watchdog once the box runs.
func (b *Box) tick(now time.Time) {
	a := &b.appliance
	if a.exited == nil && !now.Before(a.next) {
		b.run()
	}
	b.keepLogin(now)
	if now.Sub(b.checked) >= askEvery {
		b.checked = now
		b.checkWritable()
	}
	if !b.asking && a.ready && now.Sub(b.asked) >= askEvery {
		b.asked = now
		b.ask()
	}
	why := a.lifeless(now)
	switch {
	case why != "" && !a.ready && now.Sub(a.started) < startTimeout+signOfLife: // a reboot would cut the operator off each minute
		b.log.Error(why + ": killed")
		_ = a.process.Kill()
	case why != "":
		b.order(Order{Kind: Reboot, Force: true, Why: why})
		return // and no food for the watchdog: it is the second who sees to the reboot
	}
	if err := b.dog.feed(); err != nil {
		b.log.Error(err.Error())
	}
	b.assess(now)
	if now.Sub(b.saved) > 10*time.Minute {
		b.saved = now
		b.saveClock(false)
	}
}

// assess finds out whether a new slot is good.
func (b *Box) assess(now time.Time) {
	if !b.onTrial() {
		return
	}
	wrong := b.wrong()
	if wrong != "" {
		b.well = time.Time{}
		b.trouble(wrong)
		if sinceBoot() > b.trialTime {
			b.order(Order{Kind: Reboot, Why: fmt.Sprintf("not good after %v: %s", b.trialTime, wrong)})
		}
		return
	}
	if b.well.IsZero() {
		b.well = now
		b.log.Info("all is well; the new slot is good if it stays so", "for", b.stable)
	}
	if now.Sub(b.well) >= b.stable {
		if err := b.commit("all was well for " + b.stable.String()); err != nil {
			b.trouble("cannot mark the slot as good: " + err.Error())
			b.log.Error("cannot mark the slot as good", "error", err)
			b.well = now // and again later
		}
	}
}

// wrong is what keeps a new slot from being good, "" if nothing does.
func (b *Box) wrong() string {
	a := &b.appliance
	h := b.currentHealth()
	switch {
	case b.esp == nil:
		return "the EFI partition is not mounted"
	case !b.dataMounted:
		return "the data partition is not mounted"
	case a.builtin:
		return "the configuration is not taken"
	case a.exited == nil:
		return "the appliance does not run"
	case !a.ready:
		return "the appliance is not ready"
	case b.askErr != "":
		return "the appliance does not answer: " + b.askErr
	case !b.heard:
		return "the appliance has not answered yet"
	case !h.Serving:
		return "the appliance does not serve"
	case len(h.Quiet) > 0:
		return "services do not answer: " + strings.Join(h.Quiet, ", ")
	}
	if down := missing(h, b.wanted()); len(down) > 0 {
		return "interfaces have no link: " + strings.Join(down, ", ")
	}
	return ""
}

// missing are the interfaces without a link that should have one: those that had one when the update was
// installed, or all if that isn't known.
func missing(h Health, wanted []string) (down []string) {
	if wanted == nil {
		return h.Down
	}
	for _, name := range wanted {
		if !slices.Contains(h.Up, name) {
			down = append(down, name)
		}
	}
	return down
}

// wanted are the interfaces that were up when this slot was installed.
func (b *Box) wanted() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u := b.story.update(); u != nil && u.Slot == b.slot {
		return u.Up
	}
	return nil
}

func (b *Box) currentHealth() Health {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.health
}
