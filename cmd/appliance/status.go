package main

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services/admin"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:   "status",
		Usage:  "show what the running appliance does",
		Flags:  []cli.Flag{socketFlag(), jsonFlag()},
		Action: statusAction,
	}
}

func statusAction(c *cli.Context) error {
	s, err := admin.NewClient(c.String("socket")).Status(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c, s)
	}
	return writeStatus(c.App.Writer, s, time.Now())
}

func writeStatus(w io.Writer, s admin.Status, now time.Time) error {
	fmt.Fprintf(w, "appliance %s is %s for %s, pid %d, %s, memory %s\nconfiguration %s\n\n", s.Version, s.Phase,
		span(now.Sub(s.Started)), s.PID, count(s.Threads, "thread"), size(s.Memory), s.Config)
	t := newTable("SERVICE", "TYPE", "PHASE", "LISTEN", "ACTIVE", "TOTAL", "TO BACKEND", "TO CLIENT")
	for _, v := range s.Services {
		t.row(v.Name, v.Type, v.Phase, join(v.Listen), fmt.Sprint(v.Counters.Active), fmt.Sprint(v.Counters.Accepted),
			size(v.Counters.ToBackend), size(v.Counters.ToClient))
	}
	if err := t.write(w); err != nil {
		return err
	}
	if err := writeBackends(w, s.Services); err != nil {
		return err
	}
	if err := writeInterfaces(w, s.Interfaces); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nTCP states: %s\n", counts(s.TCP))
	if s.SSH != nil {
		fmt.Fprintf(w, "SSH on %s: %d logged in; %s\n", join(s.SSH.Listen), s.SSH.LoggedIn, counts(s.SSH.Counters))
	}
	if s.Time != nil {
		fmt.Fprintln(w, timeLine(s.Time))
	}
	if s.Sweep != nil {
		fmt.Fprintln(w, sweepLine(s.Sweep))
	}
	for _, v := range s.Services {
		if v.Counters.Carried[tcpinfo.Splice]+v.Counters.Carried[tcpinfo.Direct] > 0 {
			fmt.Fprintf(w, "%s carries: %s\n", v.Name, counts(v.Counters.Carried))
		}
		if len(v.Counters.Ended) > 0 {
			fmt.Fprintf(w, "%s ended: %s\n", v.Name, counts(v.Counters.Ended))
		}
	}
	return nil
}

func writeBackends(w io.Writer, all []admin.Service) error {
	t := newTable("BACKEND", "SERVICE", "STATE", "ACTIVE", "CONNECTS", "FAILURES")
	for _, v := range all {
		for _, b := range v.Backends {
			state := "up"
			if b.Draining {
				state = "draining"
			} else if !b.Up {
				state = "down"
			}
			t.row(b.Addr.String(), v.Name, state, fmt.Sprint(b.Active), fmt.Sprint(b.Connects), fmt.Sprint(b.Failures))
		}
	}
	if len(t.rows) == 1 {
		return nil
	}
	fmt.Fprintln(w)
	return t.write(w)
}

func writeInterfaces(w io.Writer, all []admin.Interface) error {
	t := newTable("INTERFACE", "LINK", "MTU", "ADDRESSES", "RECEIVED", "SENT", "DROPPED")
	for _, i := range all {
		link := "down"
		if i.Up {
			link = "up"
		}
		addresses := make([]string, len(i.Addresses))
		for n, a := range i.Addresses {
			addresses[n] = a.String()
		}
		t.row(i.Name, link, fmt.Sprint(i.MTU), strings.Join(addresses, " "), size(i.Counters["rx_bytes"]),
			size(i.Counters["tx_bytes"]), drops(i.Counters))
	}
	fmt.Fprintln(w)
	if err := t.write(w); err != nil {
		return err
	}
	for _, i := range all {
		if i.DHCP != nil {
			fmt.Fprintf(w, "%s by DHCP: %s\n", i.Name, leaseText(i.DHCP))
		}
	}
	return nil
}

// timeLine tells what is known of the time.
func timeLine(t *admin.Time) string {
	if !t.Server.IsValid() {
		return "Time: not known yet: " + t.Error
	}
	line := fmt.Sprintf("Time: offset %s by %s, stratum %d, round trip %s", t.Offset.Round(time.Microsecond), t.Server, t.Stratum, t.RTT.Round(time.Microsecond))
	if t.Sets {
		line += fmt.Sprintf(", the clock is set by it (%s)", count(t.Steps, "step"))
	}
	if t.Error != "" {
		line += "; then " + t.Error
	}
	return line
}

// leaseText tells of a card's lease in a line.
func leaseText(l *admin.DHCP) string {
	if !l.Address.IsValid() {
		text := fmt.Sprintf("no address (%s, %s without an answer)", l.State, count(l.Tries, "message"))
		if l.Error != "" {
			text += ": " + l.Error
		}
		return text
	}
	left := "for ever"
	if l.Left != nil {
		left = "for " + span(*l.Left) + " more"
	}
	text := fmt.Sprintf("%s from %s, %s, %s", l.Address, l.Server, left, l.State)
	if l.Unconfirmed {
		text += ", of the run before: no server answers"
	}
	for _, more := range []struct {
		what  string
		addrs []netip.Addr
	}{{"router", l.Routers}, {"DNS", l.DNS}, {"NTP", l.NTP}} {
		for _, a := range more.addrs {
			text += fmt.Sprintf(", %s %s", more.what, a)
		}
	}
	return text
}

// sweepLine tells what the start after a crash has done.
func sweepLine(s *admin.Sweep) string {
	line := fmt.Sprintf("Sweep after a crash: %s, %d peers asked: %d reset, %d knew already, %d silent; %d skipped",
		count(s.Found, "connection"), s.Asked, s.Ended, s.Gone, s.Silent, s.Skipped)
	if !s.Over {
		return fmt.Sprintf("%s, %d left", line, s.Left)
	}
	return fmt.Sprintf("%s, took %v", line, s.Took.Round(time.Millisecond))
}

// flows are the counters of frames that went where they should.
var flows = []string{"rx_frames", "rx_bytes", "rx_super_frames", "rx_carried", "rx_pieces", "tx_frames", "tx_bytes", "tx_super_frames", "tx_carried", "link_changes", "acks_saved", "acks_late"}

// drops names what was dropped, and why.
func drops(counters map[string]uint64) string {
	lost := make(map[string]uint64)
	for name, n := range counters {
		if !slices.Contains(flows, name) {
			lost[name] = n
		}
	}
	return counts(lost)
}

// counts is "a 1, b 2" in the order of the names, without zeros.
func counts[K ~string, T int | int64 | uint64](m map[K]T) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if m[name] != 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, m[name]))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func join(addrs []netip.AddrPort) string {
	parts := make([]string, len(addrs))
	for i, a := range addrs {
		parts[i] = a.String()
	}
	return strings.Join(parts, " ")
}
