package demo

import (
	"net/netip"

	"github.com/lastack/lastack/internal/lab"
)

// ledger is what the frames at the clients' side say about the end of their
// connections.
type ledger struct {
	finAcked int // clients that acknowledged the appliance's FIN
	lastACK  int // clients whose own FIN the appliance acknowledged
	resets   int // clients that were sent RST
}

// account is one client's.
type account struct {
	theirFIN, ourFIN sent // from the appliance, from the client
	reset            bool
}

// sent is a FIN that went one way, and its acknowledgement the other.
type sent struct {
	seen, acked bool
	owed        uint32 // the acknowledgement number that covers it
}

// note sees a segment in the direction of the FIN.
func (f *sent) note(s lab.Segment) {
	if s.Flags.Has(lab.FIN) {
		f.seen, f.owed = true, s.Seq+uint32(s.Len)+1
	}
}

// answer sees a segment in the other direction.
func (f *sent) answer(s lab.Segment) {
	// RFC 9293, 3.4: sequence numbers are compared modulo 2^32.
	if f.seen && s.Flags.Has(lab.ACK) && int32(s.Ack-f.owed) >= 0 {
		f.acked = true
	}
}

// keep makes the ledger of these clients, of their connections to service.
func keep(segments []lab.Segment, service netip.AddrPort, clients []netip.AddrPort) ledger {
	accounts := make(map[netip.AddrPort]*account, len(clients))
	for _, c := range clients {
		accounts[c] = &account{}
	}
	for _, s := range segments {
		if a := accounts[s.Dst]; a != nil && s.Src == service {
			a.reset = a.reset || s.Flags.Has(lab.RST)
			a.theirFIN.note(s)
			a.ourFIN.answer(s)
		} else if a := accounts[s.Src]; a != nil && s.Dst == service {
			a.ourFIN.note(s)
			a.theirFIN.answer(s)
		}
	}
	return sum(accounts)
}

func sum(accounts map[netip.AddrPort]*account) (l ledger) {
	for _, a := range accounts {
		if a.theirFIN.acked {
			l.finAcked++
		}
		if a.ourFIN.acked {
			l.lastACK++
		}
		if a.reset {
			l.resets++
		}
	}
	return l
}
