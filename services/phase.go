package services

import (
	"fmt"
	"sync/atomic"
)

// Phase is where a Service is in its life. It goes back from draining alone,
// by Undrain:
//
//	            Start       Drain, StartDrain      all connections ended
//	starting ----------> serving <-------> draining ---------------------> closed
//	    |                   |                  |                             ^
//	    | Start failed      | Close            | Close                       |
//	    +-------------------+------------------+-----------------------------+
type Phase uint32

// The phases, in order.
const (
	Starting Phase = iota
	Serving
	Draining
	Closed
)

var phaseNames = [...]string{"starting", "serving", "draining", "closed"}

// String is the phase's name in status and logs.
func (p Phase) String() string {
	if int(p) < len(phaseNames) {
		return phaseNames[p]
	}
	return fmt.Sprintf("phase %d", uint32(p))
}

// phaseVar holds a Phase; enter and resume alone change it.
type phaseVar struct{ v atomic.Uint32 }

func (v *phaseVar) get() Phase { return Phase(v.v.Load()) }

// enter moves forward to p and reports whether this call did.
func (v *phaseVar) enter(p Phase) bool {
	for {
		old := v.v.Load()
		if Phase(old) >= p {
			return false
		}
		if v.v.CompareAndSwap(old, uint32(p)) {
			return true
		}
	}
}

// resume goes back from Draining to Serving and reports whether this call did.
func (v *phaseVar) resume() bool { return v.v.CompareAndSwap(uint32(Draining), uint32(Serving)) }
