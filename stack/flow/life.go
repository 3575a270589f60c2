package flow

import (
	"net/netip"
	"slices"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// Row is a flow in a listing.
type Row struct {
	Local, Remote netip.AddrPort
	ID            uint64 // of the stack's connection; 0 if there never was one
	Policy        string
	State         State
	Held          bool // the stack's connection has not been let go of
	Life          tcpinfo.Life
}

// known calls do with the flow of a connection and its shard's lock held, and
// reports whether there is one.
func (t *Table) known(local, remote netip.AddrPort, id uint64, do func(sh *shard, f *Flow, slot uint32, now instant)) bool {
	k := keyOf(local, remote)
	sh, h := t.shard(&k)
	now := t.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f, slot := sh.find(&k, h)
	if f == nil || f.id != id {
		return false
	}
	do(sh, f, slot, now)
	return true
}

// Life tells of a connection. It is false if the table knows nothing of it, or
// nothing any more.
func (t *Table) Life(local, remote netip.AddrPort, id uint64) (l tcpinfo.Life, ok bool) {
	ok = t.known(local, remote, id, func(_ *shard, f *Flow, _ uint32, now instant) { l = t.life(f, now) })
	return l, ok
}

// State is the state of a connection as its segments tell.
func (t *Table) State(local, remote netip.AddrPort, id uint64) (s State, ok bool) {
	ok = t.known(local, remote, id, func(_ *shard, f *Flow, _ uint32, _ instant) { s = f.state })
	return s, ok
}

// Timer is the bound of the state a connection is in, if there is one.
func (t *Table) Timer(local, remote netip.AddrPort, id uint64) (timer tcpinfo.Timer, ok bool) {
	t.known(local, remote, id, func(_ *shard, f *Flow, _ uint32, now instant) {
		due, rule, bounded := t.deadline(f)
		if ok = bounded && rule != ""; ok {
			timer = tcpinfo.Timer{Name: rule, Left: left(due, now)}
		}
	})
	return timer, ok
}

func left(due uint32, now instant) time.Duration {
	return time.Duration(max(int32(due-now.ms), 0)) * time.Millisecond
}

// List calls f for each flow in one of the states, or for all if there is none.
func (t *Table) List(in ...State) []Row {
	var rows []Row
	now := t.now()
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		sh.each(func(f *Flow) {
			if len(in) > 0 && !slices.Contains(in, f.state) {
				return
			}
			rows = append(rows, Row{
				Local: f.key.localAddr(), Remote: f.key.remoteAddr(), ID: f.id,
				Policy: t.policy(f.policy).Name, State: f.state,
				Held: f.id != 0 && !f.has(released), Life: t.life(f, now),
			})
		})
		sh.mu.Unlock()
	}
	return rows
}

// States counts the flows in each state.
func (t *Table) States() map[string]int { return t.countStates(0) }

// CarriedStates counts the legs of carried connections in each state.
func (t *Table) CarriedStates() map[string]int { return t.countStates(carried) }

// countStates counts the flows that have all of the given flags.
func (t *Table) countStates(which flags) map[string]int {
	var n [states]int
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		sh.each(func(f *Flow) {
			if f.flags&which == which {
				n[f.state]++
			}
		})
		sh.mu.Unlock()
	}
	m := make(map[string]int)
	for s, count := range n {
		if count > 0 {
			m[State(s).String()] = count
		}
	}
	return m
}

// Len counts the flows.
func (t *Table) Len() int {
	n := 0
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		n += sh.n
		sh.mu.Unlock()
	}
	return n
}

func (t *Table) life(f *Flow, now instant) tcpinfo.Life {
	l := tcpinfo.Life{
		Began: t.wall.Add(time.Duration(f.began)), Dialled: f.has(dialled),
		Steps:   f.steps(),
		FinSent: f.has(finSent), FinAcked: f.has(finAcked), FinRetrans: int(f.finRetrans),
		PeerFin:      f.has(peerFinSeen) && f.rcvNxt == f.peerFin+1,
		PeerFinAgain: int(f.peerFinAgain),
		SynRetrans:   int(f.synRetrans),
		RstSent:      f.has(rstSent), RstReceived: f.has(rstSeen),
		Unacked: f.unacked(), Repeats: int(f.repeats), Guarded: int(f.guarded), Hint: hintNames[f.soft],
		Options: tcpinfo.Options{
			Seen: f.has(synsSeen), SndMSS: f.sndMSS, RcvMSS: f.rcvMSS, SndScale: f.sndScale, RcvScale: f.rcvScale,
			SACK: f.has(sackOK), Timestamps: f.has(timestamps),
		},
	}
	if f.has(finAcked) {
		l.FinAckedIn = time.Duration(f.finTook) * time.Millisecond
	}
	switch {
	case f.has(finFirstUs):
		l.FinFirst = tcpinfo.Us
	case f.has(finFirstPeer):
		l.FinFirst = tcpinfo.Peer
	}
	if f.closedWnd != 0 {
		l.ZeroWindow = time.Duration(now.ms-f.closedWnd) * time.Millisecond
	}
	if f.endedBy > 0 {
		l.EndedBy = limitRules[f.endedBy-1]
	}
	if f.state == TimeWait {
		due, _, _ := t.deadline(f)
		l.TimeWaitLeft = left(due, now)
	}
	return l
}

// steps are the states in the order they were entered.
func (f *Flow) steps() []tcpinfo.Step {
	var order []State
	for s := range states {
		if f.entered[s] != 0 {
			order = append(order, s)
		}
	}
	slices.SortStableFunc(order, func(a, b State) int {
		if f.entered[a] != f.entered[b] {
			return int(f.entered[a]) - int(f.entered[b])
		}
		return rank(a) - rank(b) // within a millisecond
	})
	steps := make([]tcpinfo.Step, len(order))
	for i, s := range order {
		steps[i] = tcpinfo.Step{State: s.String(), After: time.Duration(f.entered[s]-1) * time.Millisecond}
	}
	return steps
}

// rank is a state's place on the way, CLOSED last.
func rank(s State) int {
	if s == Closed {
		return int(states)
	}
	return int(s)
}
