package proxy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/lastack/lastack/services"
)

// savedPair is what a pair adds to its session.
type savedPair struct {
	Up       services.SavedPipe `json:"up"`
	Down     services.SavedPipe `json:"down"`
	Target   netip.AddrPort     `json:"target"` // zero before the first attempt
	Begun    bool               `json:"begun"`
	Half     bool               `json:"half"`
	Counted  bool               `json:"counted"`
	Attempts int                `json:"attempts"`
	Finished time.Duration      `json:"finished"`
	FinishBy time.Duration      `json:"finish_by"`
	Answered bool               `json:"answered"`
	TurnBy   time.Duration      `json:"turn_by"`
}

// Keep implements services.Keeper.
func (p *pair) Keep() any {
	v := savedPair{
		Up: p.up.Keep(), Down: p.down.Keep(), Begun: p.begun, Half: p.half, Counted: p.counted, Attempts: p.attempts,
		Finished: p.finished, FinishBy: p.finishBy, Answered: p.answered, TurnBy: p.turnBy,
	}
	if p.target != nil {
		v.Target = p.target.addr
	}
	return v
}

// Recall implements services.Keeper. A pair that was looking for a backend goes
// on with that at once.
func (p *pair) Recall(private json.RawMessage) error {
	var v savedPair
	if err := json.Unmarshal(private, &v); err != nil {
		return fmt.Errorf("read what is known of it: %w", err)
	}
	p.up.Recall(p.Loop(), v.Up)
	p.down.Recall(p.Loop(), v.Down)
	p.begun, p.half, p.attempts, p.answered = v.Begun, v.Half, v.Attempts, v.Answered
	p.finished, p.finishBy, p.turnBy = v.Finished, v.FinishBy, v.TurnBy
	if v.Target.IsValid() {
		p.target = p.proxy.backend(v.Target)
	}
	if v.Counted && p.target != nil {
		p.counted = true
		p.target.active.Add(1)
	}
	if !p.Backend.Present() && p.Stage() == services.Closing {
		p.up.To = nil // as finish has left it
	}
	return nil
}

// savedBackend is the health of a backend.
type savedBackend struct {
	Addr     netip.AddrPort `json:"addr"`
	Fails    uint32         `json:"fails"`
	RetryAt  int64          `json:"retry_at"`
	Connects uint64         `json:"connects"`
	Failures uint64         `json:"failures"`
	Plan     int            `json:"plan"` // of its drain, in services.Saved; 0 is none
}

// Save implements services.Service.
func (x *Proxy) Save() (*services.Saved, []services.Conn) {
	s, conns := x.Server.Save()
	var all []savedBackend
	pool := x.pool.Load()
	for _, b := range slices.Concat(pool.backends, pool.gone) {
		all = append(all, savedBackend{b.addr, b.fails.Load(), b.retryAt.Load(), b.connects.Load(), b.failures.Load(), s.Keep(b.plan.Load())})
	}
	s.Private, _ = json.Marshal(all) // plain fields
	return s, conns
}

// Load implements services.Service.
func (x *Proxy) Load(s *services.Saved, conn func(id uint64) services.Conn) (int, error) {
	var all []savedBackend
	if err := json.Unmarshal(s.Private, &all); err != nil {
		return 0, fmt.Errorf("read the health of backends: %w", err)
	}
	for _, v := range all {
		b := x.pool.Load().find(v.Addr)
		if b == nil && v.Plan == 0 {
			continue // that a reload has taken out
		}
		if b == nil {
			b = x.backend(v.Addr) // and whose connections drain
		}
		b.fails.Store(v.Fails)
		b.retryAt.Store(v.RetryAt)
		b.connects.Store(v.Connects)
		b.failures.Store(v.Failures)
		b.plan.Store(s.Recall(v.Plan))
	}
	if s.Owner != "" && s.Owner != x.Owner() {
		x.OwnAs(s.Owner)
		x.own()
		x.CarryAll(x.mode.Load().by)
	}
	n, err := x.Server.Load(s, conn)
	x.loadCarried()
	return n, err
}
