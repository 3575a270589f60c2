package services

import (
	"net/netip"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// Forsake ends every connection with a side on an address of ours that is about
// to go away: its peers are reset while that can still be said.
func (s *Server) Forsake(addr netip.Addr) (n int) {
	for _, sh := range s.shards {
		sh.mu.Lock()
		for one := sh.first; one != nil; one = one.next {
			if one.Client.Conn.LocalAddr().Addr() == addr ||
				one.Backend.Conn != nil && one.Backend.Conn.LocalAddr().Addr() == addr {
				one.Wake(ReadyLost)
				n++
			}
		}
		sh.mu.Unlock()
	}
	return n + s.carriage.forsake(addr)
}

// forsake is the same for what the flow table carries.
func (c *carriage) forsake(addr netip.Addr) (n int) {
	var on []tcpinfo.CarriedRef
	c.list(func(v *tcpinfo.Carried) {
		if v.Client.Local.Addr() == addr || v.Backend.Local.Addr() == addr {
			on = append(on, v.Ref)
		}
	})
	for _, ref := range on {
		if c.carrier.End(ref, tcpinfo.CarriedEnd{How: "rst", Why: tcpinfo.AddressLost}) {
			n++
		}
	}
	return n
}

// Forsake ends what all services have on an address.
func (v *Supervisor) Forsake(addr netip.Addr) (n int) {
	for _, s := range v.Services() {
		n += s.Forsake(addr)
	}
	return n
}
