package services

import "net/netip"

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
	return n
}

// Forsake ends what all services have on an address.
func (v *Supervisor) Forsake(addr netip.Addr) (n int) {
	for _, s := range v.Services() {
		n += s.Forsake(addr)
	}
	return n
}
