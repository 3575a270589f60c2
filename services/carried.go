package services

import (
	"fmt"
	"strings"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// relays is the carrier of the service's sessions: diagnostic services have none.
func (s *Server) relays() tcpinfo.Carrier {
	if s.proxies {
		return tcpinfo.Relay
	}
	return ""
}

// rowOfCarried describes a carried connection as a session would be.
func (s *Server) rowOfCarried(v *tcpinfo.Carried, now time.Duration) Row {
	r := Row{
		ID: v.Ref.ID, Service: s.name, Stage: stageOf(&v.View).String(),
		Client: v.Client.Remote, Local: v.Client.Local, Backend: v.View.Backend, Source: v.Backend.Local,
		State:     v.Client.Info.State,
		ToBackend: v.Backend.Sent, ToClient: v.Client.Sent,
		Opened: v.Opened, Age: v.Age, Idle: v.View.Moved, Connect: v.Connect, Retries: v.Retries,
		Policy: v.Policy, Carrier: v.Carrier, Why: s.whyNotDirect(v.Carrier),
		ClientLife: v.Client.Life, BackendLife: v.Backend.Life, ClientInfo: v.Client.Info, BackendInfo: v.Backend.Info,
		Timers: s.timersOf(v, now),
	}
	if v.Backend.Info.State != "" {
		r.State += "/" + v.Backend.Info.State
	}
	return r
}

func stageOf(v *tcpinfo.CarriedView) Stage {
	switch {
	case v.Connecting:
		return Connecting
	case v.Parted:
		return Closing
	case v.Finished:
		return Settling
	}
	return Relaying
}

// whyNotDirect tells why what is carried is not carried from its first SYN on.
func (s *Server) whyNotDirect(by tcpinfo.Carrier) string {
	switch {
	case by == tcpinfo.Direct:
		return ""
	case s.Settings().Service.Forwarding == string(tcpinfo.Splice):
		return "forwarding: splice"
	}
	return "its SYN was not the flow table's"
}

// timersOf are those of the service that run on a carried connection.
func (s *Server) timersOf(v *tcpinfo.Carried, now time.Duration) (all []tcpinfo.Timer) {
	if stageOf(&v.View) != Relaying {
		return nil
	}
	settings := s.Settings()
	name, limit := tcpinfo.IdleTimeout, settings.Service.IdleTimeout
	if half := settings.Policy.HalfClose; v.View.HalfClosed && half > 0 && (limit <= 0 || half < limit) {
		name, limit = tcpinfo.HalfClose, half
	}
	if limit > 0 {
		all = append(all, tcpinfo.Timer{Name: name, Left: max(limit-v.View.Moved, 0)})
	}
	if plan := s.carriage.planFor(v.View.Backend, v.Ref.ID); plan != nil {
		all = append(all, tcpinfo.Timer{Name: "drain", Left: max(plan.Deadline-now, 0)})
	}
	return all
}

// endedOf is the record of a carried connection that has ended.
func (s *Server) endedOf(v *tcpinfo.Carried) Ended {
	e := Ended{
		ID: v.Ref.ID, Service: s.name, Policy: v.Policy, ClientAddr: v.View.Client, Local: v.Client.Local, BackendAddr: v.View.Backend,
		Client: endedLeg(&v.Client, true), Backend: endedLeg(&v.Backend, !v.View.Connecting),
		ToBackend: v.Backend.Sent, ToClient: v.Client.Sent,
		Opened: v.Opened, Lasted: v.Age, Connect: v.Connect, Retries: v.Retries,
		Carrier: v.Carrier, Why: s.whyNotDirect(v.Carrier),
	}
	if !e.BackendAddr.IsValid() {
		e.BackendAddr = v.Last
	}
	e.Reason, e.Detail = reasonOfCarried(v)
	e.First = firstOfCarried(v, e.Reason)
	e.Outcome = outcome(&e)
	return e
}

func endedLeg(l *tcpinfo.Leg, present bool) EndedSide {
	if !present {
		return EndedSide{}
	}
	e := EndedSide{Present: true, State: l.Info.State, EOF: l.EOF, FIN: l.FIN, FinAcked: l.Life.FinAcked, Life: l.Life}
	switch _, gaveUp := ruled[l.Rule]; {
	case l.Died && gaveUp:
		e.Died = ByTimeout
	case l.Died:
		e.Died = ByRST
	default:
		e.Reset = l.Reset
	}
	return e
}

// endedBy are the reasons of the rules that end a connection as a whole.
var endedBy = map[tcpinfo.Rule]Reason{
	tcpinfo.IdleTimeout:    IdleTimeout,
	tcpinfo.HalfClose:      HalfCloseTimeout,
	tcpinfo.ConnectTimeout: NoBackend, // as syn_retries, before one has answered
	tcpinfo.Refused:        NoBackend,
	tcpinfo.Drained:        Drained,
	tcpinfo.DrainDeadline:  DrainDeadline,
	tcpinfo.Killed:         Killed,
	tcpinfo.Stopped:        Stopped,
	tcpinfo.AddressLost:    AddressLost,
	tcpinfo.TableFull:      TableFull,
}

// reasonOfCarried is why a carried connection ended: first what the table did by
// itself, then who gave up, then who was first.
func reasonOfCarried(v *tcpinfo.Carried) (Reason, string) {
	// A drain only bounds what both peers have finished.
	bounded := v.FirstBy == tcpinfo.Drained && v.First == tcpinfo.Peer
	if r, ok := endedBy[v.FirstBy]; ok && !bounded {
		return r, detailOf(v)
	}
	if v.FirstBy == tcpinfo.SynRetries && v.View.Connecting {
		return NoBackend, detailOf(v)
	}
	if r, ok := reasonOfLegs(v); ok {
		return r, ""
	}
	switch {
	case bounded && (unanswered(&v.Client) || unanswered(&v.Backend)):
		return FinUnacked, "had ended: " + Finished.String()
	case v.FirstBy == tcpinfo.FinWait2:
		return FinWait2Timeout, ""
	case v.First == tcpinfo.Peer && v.ByRST && v.FirstOf == tcpinfo.ClientLeg:
		return clientReset(v), ""
	case v.First == tcpinfo.Peer && v.ByRST:
		return BackendReset, ""
	case v.Client.EOF && v.Backend.EOF:
		return Finished, ""
	}
	return InternalError, "the flow table does not tell why"
}

// unanswered reports whether a peer has left our last FIN without an answer.
func unanswered(l *tcpinfo.Leg) bool { return l.FIN && !l.Life.FinAcked }

// reasonOfLegs finds the side that was given up, or that has reset it.
func reasonOfLegs(v *tcpinfo.Carried) (Reason, bool) {
	if v.Client.Died {
		if both, ok := ruled[v.Client.Rule]; ok {
			return both.client, true
		}
		return clientReset(v), true
	}
	if v.Backend.Died {
		if both, ok := ruled[v.Backend.Rule]; ok {
			return both.backend, true
		}
		return BackendReset, true
	}
	return Live, false
}

func clientReset(v *tcpinfo.Carried) Reason {
	if v.View.Connecting {
		return ClientLeft
	}
	return ClientReset
}

// attempts are how one at a backend ends.
var attempts = map[tcpinfo.Rule]string{
	tcpinfo.Refused:        "refused",
	tcpinfo.ConnectTimeout: "did not answer within connect_timeout",
	tcpinfo.SynRetries:     "never answered our SYN, which was repeated as often as syn_retries allows",
}

// detailOf adds what the reason does not say.
func detailOf(v *tcpinfo.Carried) string {
	how, ok := attempts[v.FirstBy]
	switch {
	case !ok:
		return ""
	case !v.Last.IsValid():
		return fmt.Sprintf("%d attempts", v.Retries)
	}
	return fmt.Sprintf("%d attempts, the last: %s %s", v.Retries, v.Last, how)
}

// firstOfCarried is the witness of its end.
func firstOfCarried(v *tcpinfo.Carried, why Reason) First {
	how := ByFIN
	if v.ByRST {
		how = ByRST
	}
	switch {
	case v.First == tcpinfo.Peer:
		return First{string(v.FirstOf), how}
	case why == HalfCloseTimeout || why == FinWait2Timeout || why == FinUnacked:
		return First{"us", ByTimeout}
	case v.First == tcpinfo.Us && strings.HasPrefix(why.String(), "client_"):
		return First{"client", ByTimeout}
	case v.First == tcpinfo.Us && strings.HasPrefix(why.String(), "backend_"):
		return First{"backend", ByTimeout}
	case why == NoBackend, why == Stopped:
		return First{"us", ByRST}
	}
	return First{"us", how}
}
