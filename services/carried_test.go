package services_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/servicestest"
)

// The record of a carried connection says what that of a relayed one would.
func TestWhatEndedACarriedConnection(t *testing.T) {
	client, local, source, backend := netip.MustParseAddrPort("192.0.2.7:40000"), netip.MustParseAddrPort("198.51.100.1:80"),
		netip.MustParseAddrPort("10.0.0.1:20000"), netip.MustParseAddrPort("10.0.0.21:80")
	finished := tcpinfo.Leg{EOF: true, FIN: true, Life: tcpinfo.Life{FinSent: true, FinAcked: true, PeerFin: true}}
	unacked := tcpinfo.Leg{EOF: true, FIN: true, Reset: true, Life: tcpinfo.Life{FinSent: true, PeerFin: true}}
	reset := tcpinfo.Leg{Reset: true}
	told := tcpinfo.Leg{FIN: true, Reset: true, Life: tcpinfo.Life{FinSent: true, FinAcked: true}}
	died := func(rule tcpinfo.Rule) tcpinfo.Leg { return tcpinfo.Leg{Died: true, Rule: rule} }
	for name, c := range map[string]struct {
		v       tcpinfo.Carried
		reason  services.Reason
		who     string
		how     services.How
		outcome services.Outcome
	}{
		"both finished": {tcpinfo.Carried{Client: finished, Backend: finished, First: tcpinfo.Peer, FirstOf: tcpinfo.BackendLeg},
			services.Finished, "backend", services.ByFIN, services.Clean},
		"the client resets": {tcpinfo.Carried{Client: died(""), Backend: reset, First: tcpinfo.Peer, FirstOf: tcpinfo.ClientLeg, ByRST: true},
			services.ClientReset, "client", services.ByRST, services.Clean},
		"the client resets, no backend yet": {tcpinfo.Carried{Client: died(""), View: tcpinfo.CarriedView{Connecting: true}, First: tcpinfo.Peer, FirstOf: tcpinfo.ClientLeg, ByRST: true},
			services.ClientLeft, "client", services.ByRST, services.Clean},
		"the backend resets after the client's FIN": {tcpinfo.Carried{Client: reset, Backend: died(""), First: tcpinfo.Peer, FirstOf: tcpinfo.ClientLeg},
			services.BackendReset, "client", services.ByFIN, services.Clean},
		"keepalive": {tcpinfo.Carried{Client: died(tcpinfo.Keepalive), Backend: reset, First: tcpinfo.Us, FirstBy: tcpinfo.Keepalive, ByRST: true},
			services.ClientKeepalive, "client", services.ByTimeout, services.Reset},
		"user_timeout": {tcpinfo.Carried{Client: reset, Backend: died(tcpinfo.UserTimeout), First: tcpinfo.Us, FirstBy: tcpinfo.UserTimeout, ByRST: true},
			services.BackendUserTimeout, "backend", services.ByTimeout, services.Reset},
		"zero_window": {tcpinfo.Carried{Client: died(tcpinfo.ZeroWindow), Backend: reset, First: tcpinfo.Us, FirstBy: tcpinfo.ZeroWindow, ByRST: true},
			services.ClientZeroWindow, "client", services.ByTimeout, services.Reset},
		"last_ack after FINs": {tcpinfo.Carried{Client: died(tcpinfo.LastAck), Backend: finished, First: tcpinfo.Peer, FirstOf: tcpinfo.ClientLeg},
			services.ClientLastAck, "client", services.ByFIN, services.Unacked},
		"idle_timeout": {tcpinfo.Carried{Client: finished, Backend: finished, First: tcpinfo.Us, FirstBy: tcpinfo.IdleTimeout},
			services.IdleTimeout, "us", services.ByFIN, services.Clean},
		"half_close": {tcpinfo.Carried{Client: reset, Backend: reset, First: tcpinfo.Peer, FirstOf: tcpinfo.ClientLeg, FirstBy: tcpinfo.HalfClose},
			services.HalfCloseTimeout, "client", services.ByFIN, services.Reset},
		"drained": {tcpinfo.Carried{Client: finished, Backend: finished, First: tcpinfo.Us, FirstBy: tcpinfo.Drained},
			services.Drained, "us", services.ByFIN, services.Clean},
		"drained, one answers with RST": {tcpinfo.Carried{Client: died(""), Backend: finished, First: tcpinfo.Us, FirstBy: tcpinfo.Drained},
			services.Drained, "us", services.ByFIN, services.Clean},
		"drained, one never answers": {tcpinfo.Carried{Client: told, Backend: finished, First: tcpinfo.Us, FirstBy: tcpinfo.Drained},
			services.Drained, "us", services.ByFIN, services.Reset},
		"drain_deadline, half closed": {tcpinfo.Carried{Client: finished, Backend: told, First: tcpinfo.Peer, FirstOf: tcpinfo.ClientLeg, FirstBy: tcpinfo.DrainDeadline},
			services.DrainDeadline, "client", services.ByFIN, services.Reset},
		"drained, one answers with RST, and the rule stands on it": {tcpinfo.Carried{Client: died(tcpinfo.Drained), Backend: finished, First: tcpinfo.Us, FirstBy: tcpinfo.Drained},
			services.Drained, "us", services.ByFIN, services.Clean},
		"finished while draining": {tcpinfo.Carried{Client: finished, Backend: finished, First: tcpinfo.Peer, FirstOf: tcpinfo.BackendLeg, FirstBy: tcpinfo.Drained},
			services.Finished, "backend", services.ByFIN, services.Clean},
		"fin_wait2 in the place of half_close": {tcpinfo.Carried{Client: finished, Backend: tcpinfo.Leg{FIN: true, Reset: true, Rule: tcpinfo.FinWait2}, First: tcpinfo.Peer, FirstOf: tcpinfo.ClientLeg, FirstBy: tcpinfo.FinWait2},
			services.FinWait2Timeout, "client", services.ByFIN, services.Reset},
		"finished, the last ACK never came while draining": {tcpinfo.Carried{Client: unacked, Backend: finished, First: tcpinfo.Peer, FirstOf: tcpinfo.BackendLeg, FirstBy: tcpinfo.Drained},
			services.FinUnacked, "backend", services.ByFIN, services.Unacked},
		"killed with FIN": {tcpinfo.Carried{Client: finished, Backend: finished, First: tcpinfo.Us, FirstBy: tcpinfo.Killed},
			services.Killed, "us", services.ByFIN, services.Clean},
		"killed with RST": {tcpinfo.Carried{Client: reset, Backend: reset, First: tcpinfo.Us, FirstBy: tcpinfo.Killed, ByRST: true},
			services.Killed, "us", services.ByRST, services.Reset},
		"stopped": {tcpinfo.Carried{Client: reset, Backend: reset, First: tcpinfo.Us, FirstBy: tcpinfo.Stopped, ByRST: true},
			services.Stopped, "us", services.ByRST, services.Reset},
		"every backend refused": {tcpinfo.Carried{Client: reset, View: tcpinfo.CarriedView{Connecting: true}, First: tcpinfo.Us, FirstBy: tcpinfo.Refused, ByRST: true},
			services.NoBackend, "us", services.ByRST, services.Reset},
		"no backend answered": {tcpinfo.Carried{Client: reset, View: tcpinfo.CarriedView{Connecting: true}, First: tcpinfo.Us, FirstBy: tcpinfo.ConnectTimeout, ByRST: true},
			services.NoBackend, "us", services.ByRST, services.Reset},
		"no backend answered our SYNs": {tcpinfo.Carried{Client: tcpinfo.Leg{Reset: true, Rule: tcpinfo.SynRetries}, View: tcpinfo.CarriedView{Connecting: true}, First: tcpinfo.Us, FirstBy: tcpinfo.SynRetries, ByRST: true},
			services.NoBackend, "us", services.ByRST, services.Reset},
		"the client never ends its handshake": {tcpinfo.Carried{Client: died(tcpinfo.SynRetries), Backend: reset, First: tcpinfo.Us, FirstBy: tcpinfo.SynRetries, ByRST: true},
			services.ClientSynRetries, "client", services.ByTimeout, services.Reset},
		"nobody knows": {tcpinfo.Carried{Client: reset, Backend: reset},
			services.InternalError, "us", services.ByFIN, services.Reset},
	} {
		t.Run(name, func(t *testing.T) {
			loops := services.NewLoops(services.LoopOptions{N: 1})
			defer loops.Close()
			conf := config.Service{Name: "web", Type: "proxy", Policy: "default", MaxConns: 1, Forwarding: "direct"}
			s := services.NewServer(conf, config.DefaultPolicy(), services.Env{Network: servicestest.NewCarrierNet(&servicestest.Net{}), Loops: loops}, nil)
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			if !s.Admit() || s.Admit() {
				t.Fatal("want a place for one")
			}
			v := c.v
			v.Ref.ID, v.Carrier, v.Policy, v.Age = 7, tcpinfo.Direct, "default", time.Minute
			v.View.Client, v.View.Backend = client, backend
			v.Client.Local, v.Client.Remote, v.Client.Sent = local, client, 2
			v.Backend.Local, v.Backend.Remote, v.Backend.Sent = source, backend, 1
			s.CarriedEnded(&v)
			e := s.Ended()[0]
			if e.Reason != c.reason || e.First.Who != c.who || e.First.How != c.how || e.Outcome != c.outcome {
				t.Errorf("ended %s, first %s %s, outcome %s; want %s, %s %s, %s", e.Reason, e.First.Who, e.First.How, e.Outcome, c.reason, c.who, c.how, c.outcome)
			}
			if e.ID != 7 || e.Service != "web" || e.ClientAddr != client || e.Local != local || e.BackendAddr != backend || e.ToClient != 2 || e.ToBackend != 1 ||
				e.Lasted != time.Minute || e.Carrier != tcpinfo.Direct || e.Backend.Present == v.View.Connecting {
				t.Errorf("the record is %+v", e)
			}
			if k := s.Counters(); k.Accepted != 1 || k.Active != 0 || k.Settling != 0 || k.Ended[c.reason.String()] != 1 || k.ToClient != 2 || k.ToBackend != 1 {
				t.Errorf("the counters are %+v", k)
			}
			if !s.Admit() {
				t.Error("its place is not free")
			}
		})
	}
}
