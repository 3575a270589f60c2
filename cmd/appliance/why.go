package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
)

// writeWhy tells the story of one connection.
func writeWhy(w io.Writer, one admin.Connection, now time.Time) error {
	var b strings.Builder
	if r := one.Live; r != nil {
		fmt.Fprintf(&b, "Connection %d of service %s lives, for %s, in %s (%s).\n", r.ID, r.Service, span(r.Age), r.State, r.Stage)
		fmt.Fprintf(&b, "It carried %s to the backend and %s to the client; nothing moved for %s.\n", size(r.ToBackend), size(r.ToClient), span(r.Idle))
		tellCarrier(&b, r.Carrier, r.Why)
		if len(r.Timers) > 0 {
			fmt.Fprintf(&b, "Its service's timers: %s.\n", timersText(r.Timers))
		}
		tellSide(&b, "client", r.Client.String(), r.ClientLife, nil)
		tellTimers(&b, r.ClientInfo)
		if r.Backend.IsValid() {
			tellSide(&b, "backend", r.Backend.String(), r.BackendLife, nil)
			tellTimers(&b, r.BackendInfo)
		}
	}
	if e := one.Ended; e != nil {
		fmt.Fprintf(&b, "Connection %d of service %s ended %s ago, after %s: %s.\n", e.ID, e.Service,
			span(now.Sub(e.Opened.Add(e.Lasted))), span(e.Lasted), reasonText(e.Reason))
		if e.Detail != "" {
			fmt.Fprintf(&b, "In detail: %s.\n", e.Detail)
		}
		if e.First.Who != "" {
			fmt.Fprintf(&b, "First to end it: %s, by %s. ", subject(e.First.Who), strings.ToUpper(string(e.First.How)))
		}
		fmt.Fprintf(&b, "Outcome: %s. It carried %s to the backend and %s to the client.\n", outcomeText(e.Outcome), size(e.ToBackend), size(e.ToClient))
		tellCarrier(&b, e.Carrier, e.Why)
		tellSide(&b, "client", e.ClientAddr.String(), e.Client.Life, &e.Client)
		if e.Backend.Present {
			tellSide(&b, "backend", e.BackendAddr.String(), e.Backend.Life, &e.Backend)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// tellCarrier tells what moved the bytes of a proxied connection, and why nothing
// cheaper did.
func tellCarrier(b *strings.Builder, by tcpinfo.Carrier, why string) {
	if by == "" {
		return
	}
	fmt.Fprintf(b, "Carrier: %s", by)
	if why != "" {
		fmt.Fprintf(b, ", not a cheaper one because: %s", why)
	}
	b.WriteString(".\n")
}

// tellSide tells of one side; end is nil while it lives.
func tellSide(b *strings.Builder, who, addr string, l services.Life, end *services.EndedSide) {
	fmt.Fprintf(b, "\n%s %s\n", who, addr)
	if len(l.Steps) > 0 {
		fmt.Fprintf(b, "  states: %s\n", walkText(l.Steps))
	}
	if l.Options.Seen {
		fmt.Fprintf(b, "  agreed: %s\n", optionsText(l.Options))
	}
	for _, line := range endLines(who, l, end) {
		fmt.Fprintf(b, "  %s\n", line)
	}
}

// walkText is the way through the states with the time of each.
func walkText(steps []tcpinfo.Step) string {
	parts := make([]string, len(steps))
	for i, s := range steps {
		parts[i] = s.State
		if i > 0 {
			parts[i] = fmt.Sprintf("%s (after %s)", s.State, moment(s.After))
		}
	}
	return strings.Join(parts, " -> ")
}

func optionsText(o tcpinfo.Options) string {
	parts := []string{fmt.Sprintf("MSS %d to it and %d to us", o.SndMSS, o.RcvMSS)}
	if o.SndScale >= 0 {
		parts = append(parts, fmt.Sprintf("window scale %d and %d", o.SndScale, o.RcvScale))
	} else {
		parts = append(parts, "no window scaling")
	}
	for _, x := range []struct {
		on   bool
		name string
	}{{o.SACK, "SACK"}, {o.Timestamps, "timestamps"}} {
		if x.on {
			parts = append(parts, x.name)
		} else {
			parts = append(parts, "no "+x.name)
		}
	}
	return strings.Join(parts, ", ")
}

// endLines tell how a side ended, or how far it has.
func endLines(who string, l services.Life, end *services.EndedSide) []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	switch l.FinFirst {
	case tcpinfo.Us:
		add("our FIN went first")
	case tcpinfo.Peer:
		add("its FIN came first")
	}
	again := ""
	if l.FinRetrans > 0 {
		again = fmt.Sprintf(", sent again %s", times(l.FinRetrans))
	}
	switch {
	case l.FinAcked:
		add("our FIN was acknowledged after %s%s", moment(l.FinAckedIn), again)
	case l.FinSent:
		add("our FIN was not acknowledged%s", again)
	}
	switch {
	case l.PeerFin && l.PeerFinAgain > 0:
		add("its FIN came, and %s again; each was acknowledged", times(l.PeerFinAgain))
	case l.PeerFin:
		add("its FIN came and was acknowledged")
	case l.FinSent:
		if end == nil {
			add("its FIN has not come yet")
		} else {
			add("its FIN never came")
		}
	}
	if l.RstReceived {
		add("it sent RST")
	}
	if l.RstSent || end != nil && end.Reset {
		add("we sent RST")
	}
	if end != nil && end.Died != "" && end.Died != services.ByRST {
		add("it died by %s", end.Died)
	}
	if l.EndedBy != "" {
		add("%s", endedBy(l.EndedBy))
	}
	if l.Unacked > 0 {
		add("%s of ours unacknowledged, the oldest segment sent again %s", size(uint64(l.Unacked)), times(l.Repeats))
	}
	if l.ZeroWindow > 0 {
		add("its window was closed for %s", span(l.ZeroWindow))
	}
	if l.Hint != "" {
		add("the network said last: %s", strings.ReplaceAll(string(l.Hint), "_", " "))
	}
	if l.SynRetrans > 0 {
		add("our SYN was sent again %s", times(l.SynRetrans))
	}
	if l.Guarded > 0 {
		add("%s that claimed to be from it were refused (old timestamps, impossible acknowledgements)", count(l.Guarded, "segment"))
	}
	return lines
}

// moment is a time that is known to the millisecond.
func moment(d time.Duration) string {
	if d < time.Millisecond {
		return "less than 1ms"
	}
	return span(d)
}

// tellTimers tells which timers run.
func tellTimers(b *strings.Builder, i services.Info) {
	if len(i.Timers) > 0 {
		fmt.Fprintf(b, "  timers: %s\n", timersText(i.Timers))
	}
}

func timersText(all []tcpinfo.Timer) string {
	parts := make([]string, len(all))
	for i, t := range all {
		parts[i] = fmt.Sprintf("%s in %s", t.Name, span(t.Left))
		if t.Try > 0 {
			parts[i] += fmt.Sprintf(" (%d unanswered)", t.Try)
		}
	}
	return strings.Join(parts, ", ")
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

func subject(who string) string {
	if who == "us" {
		return "the appliance"
	}
	return "the " + who
}

// outcomeText explains an outcome.
func outcomeText(o services.Outcome) string {
	switch o {
	case services.Clean:
		return "clean, every FIN of ours was acknowledged, or a peer wanted a reset"
	case services.Reset:
		return "reset, we had to"
	case services.Unacked:
		return "unacked, a FIN of ours was never acknowledged"
	}
	return string(o)
}

// reasonText is a reason in words, with its name as in metrics.
func reasonText(r services.Reason) string {
	name := r.String()
	if text, ok := reasonWords[name]; ok {
		return text + " (" + name + ")"
	}
	for _, who := range []string{"client", "backend"} {
		rule, ok := strings.CutPrefix(name, who+"_")
		if text := ruleWords[tcpinfo.Rule(rule)]; ok && text != "" {
			return fmt.Sprintf("the %s %s (%s)", who, text, name)
		}
	}
	return name
}

var reasonWords = map[string]string{
	"finished":            "both sides finished with FIN",
	"client_reset":        "the client reset it",
	"backend_reset":       "the backend reset it",
	"client_left":         "the client reset it before a backend was connected",
	"client_timeout":      "the client no longer answered",
	"backend_timeout":     "the backend no longer answered",
	"client_unreachable":  "the network said that the client can't be reached",
	"backend_unreachable": "the network said that the backend can't be reached",
	"no_backend":          "no backend could be connected",
	"idle_timeout":        "no byte moved either way for idle_timeout",
	"half_close_timeout":  "one side had finished, and the other was silent for half_close",
	"fin_wait2_timeout":   "a side did not answer our FIN with its own within fin_wait2",
	"fin_unacked":         "our FIN was never acknowledged",
	"drained":             "it was quiet while its service drained",
	"drain_deadline":      "it was still busy at the drain's deadline",
	"stopped":             "its service was closed",
	"internal_error":      "a fault of the appliance ended this one connection; the log has it",
	"killed":              "the operator ended it",
	"table_full":          "it had been idle for longest when there was no room for another (carried.max)",
	"client_lost":         "an upgrade or a planned restart could not take the client's connection over",
	"backend_lost":        "an upgrade or a planned restart could not take the backend's connection over",
}

var ruleWords = map[tcpinfo.Rule]string{
	tcpinfo.Keepalive:   "was idle and did not answer the keepalive probes",
	tcpinfo.UserTimeout: "did not acknowledge what was sent within user_timeout",
	tcpinfo.MaxRetries:  "did not acknowledge a segment that was sent again max_retries times",
	tcpinfo.SynRetries:  "never answered the SYN",
	tcpinfo.FinWait1:    "did not acknowledge our FIN within fin_wait1",
	tcpinfo.FinWait2:    "did not send its FIN within fin_wait2",
	tcpinfo.Closing:     "did not acknowledge our FIN, which crossed its own, within closing",
	tcpinfo.LastAck:     "did not acknowledge the last FIN within last_ack",
	tcpinfo.CloseWait:   "had finished, and nothing moved for close_wait",
	tcpinfo.ZeroWindow:  "kept its window closed for zero_window",
}

// endedBy tells of a rule that the flow table has ended a side by.
func endedBy(r tcpinfo.Rule) string {
	switch r {
	case tcpinfo.Drained:
		return "it was quiet when it was to be drained"
	case tcpinfo.DrainDeadline:
		return "the deadline of its drain ended it"
	case tcpinfo.TableFull:
		return "it had been idle for longest when there was no room for another"
	case tcpinfo.Killed:
		return "the operator ended it"
	case tcpinfo.Stopped:
		return "its service was stopped"
	case tcpinfo.Refused:
		return "every backend refused it"
	case tcpinfo.ConnectTimeout, tcpinfo.IdleTimeout:
		return fmt.Sprintf("%s of its service ended it", r)
	}
	return fmt.Sprintf("the bound %s of its policy ended it", r)
}
