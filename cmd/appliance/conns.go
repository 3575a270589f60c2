package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/internal/connfilter"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
)

func connsCommand() *cli.Command {
	return &cli.Command{
		Name:      "conns",
		Usage:     "list the connections of the running appliance, in the manner of ss -tni",
		ArgsUsage: "[FILTER...]",
		Description: "A proxied connection has two sides, each with its own TCP state. The lines\n" +
			"under it show both: client -> ours, ours -> backend, with TCP's own figures.\n\n" +
			"FILTER is made of words, as with ss; either side may match:\n\n" +
			"  state NAME, exclude NAME       established, syn-sent, syn-recv, fin-wait-1,\n" +
			"                                 fin-wait-2, close-wait, closing, last-ack,\n" +
			"                                 time-wait, all, synchronized, bucket, big\n" +
			"  src, dst, client, backend      an address, a subnet, ADDRESS:PORT or :PORT\n" +
			"  sport, dport                   = != < > <= >= and a port\n" +
			"  service, policy, reason NAME   reason only with --closed\n" +
			"  carrier NAME                   relay, splice, direct\n" +
			"  and, or, not, ( )\n\n" +
			"`state time-wait` lists also those that no service has any more.",
		Flags: []cli.Flag{socketFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "closed", Usage: "the last that ended, newest first, and why"},
			&cli.BoolFlag{Name: "brief", Aliases: []string{"b"}, Usage: "one line for each, without TCP's own figures"},
			&cli.BoolFlag{Name: "wide", Usage: "tell also why nothing cheaper carries them"},
			&cli.StringFlag{Name: "service", Usage: "only the connections of `SERVICE`"},
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Usage: "at most `N` of them; 0 is all"},
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "show it again and again, until ^C"},
			&cli.DurationFlag{Name: "every", Usage: "with --watch: so often", Value: time.Second},
		},
		Action: connsAction,
	}
}

func connsAction(c *cli.Context) error {
	filter, err := connfilter.Parse(c.Args().Slice())
	if err != nil {
		return usageErr{err}
	}
	if c.Bool("watch") {
		return watch(c, filter)
	}
	return connsOnce(c, filter, nil)
}

// connsOnce lists what the filter takes. rates, if not nil, knows the byte
// counts of the last time.
func connsOnce(c *cli.Context, filter connfilter.Filter, rates *rates) error {
	client := admin.NewClient(c.String("socket"))
	service := func(name string) bool { want := c.String("service"); return want == "" || want == name }
	if c.Bool("closed") {
		return list(c, client.Ended, func(e services.Ended) bool {
			conn := endedConn(e)
			return service(e.Service) && filter.Match(&conn)
		}, func(w io.Writer, rows []services.Ended) error { return writeEnded(w, rows, c.Bool("wide")) })
	}
	if err := list(c, client.Conns, func(r services.Row) bool {
		conn := liveConn(r)
		return service(r.Service) && filter.Match(&conn)
	}, func(w io.Writer, rows []services.Row) error {
		return writeConns(w, rows, look{c.Bool("brief"), c.Bool("wide"), rates})
	}); err != nil {
		return err
	}
	if c.NArg() == 0 || c.String("service") != "" || c.Bool("json") {
		return nil
	}
	return rest(c, client, filter)
}

// rest lists connections that no service has any more: in TIME-WAIT, or
// finishing by themselves.
func rest(c *cli.Context, client *admin.Client, filter connfilter.Filter) error {
	all, err := client.Flows(c.Context)
	if err != nil {
		return err
	}
	t := newTable("STATE", "LOCAL", "REMOTE", "POLICY", "LEFT")
	for _, f := range all {
		conn := connfilter.Conn{Policy: f.Policy, Sides: []connfilter.Side{{State: f.State, Local: f.Local, Peer: f.Remote}}}
		if f.Held || !filter.Match(&conn) {
			continue
		}
		left := ""
		if f.Life.TimeWaitLeft > 0 {
			left = span(f.Life.TimeWaitLeft)
		}
		t.row(f.State, f.Local.String(), f.Remote.String(), f.Policy, left)
	}
	if len(t.rows) == 1 {
		return nil
	}
	fmt.Fprintln(c.App.Writer, "\nheld by no service any more:")
	return t.write(c.App.Writer)
}

func liveConn(r services.Row) connfilter.Conn {
	c := connfilter.Conn{Service: r.Service, Policy: r.Policy, Carrier: string(r.Carrier),
		Sides: []connfilter.Side{{State: r.ClientInfo.State, Local: r.Local, Peer: r.Client}}}
	if r.Backend.IsValid() {
		c.Sides = append(c.Sides, connfilter.Side{State: r.BackendInfo.State, Local: r.Source, Peer: r.Backend})
	}
	return c
}

func endedConn(e services.Ended) connfilter.Conn {
	c := connfilter.Conn{Service: e.Service, Policy: e.Policy, Carrier: string(e.Carrier), Reason: e.Reason.String(),
		Sides: []connfilter.Side{{State: e.Client.State, Local: e.Local, Peer: e.ClientAddr}}}
	if e.Backend.Present {
		c.Sides = append(c.Sides, connfilter.Side{State: e.Backend.State, Peer: e.BackendAddr})
	}
	return c
}

// list fetches connections, keeps those asked for and writes them.
func list[T any](c *cli.Context, fetch func(context.Context) ([]T, error), want func(T) bool, write func(io.Writer, []T) error) error {
	rows, err := fetch(c.Context)
	if err != nil {
		return err
	}
	kept := rows[:0]
	for _, r := range rows {
		if want(r) {
			kept = append(kept, r)
		}
	}
	total := len(kept)
	if n := c.Int("limit"); n > 0 {
		kept = kept[:min(n, total)]
	}
	if c.Bool("json") {
		if c.Bool("watch") {
			return json.NewEncoder(c.App.Writer).Encode(kept) // a line for each round
		}
		return writeJSON(c, kept)
	}
	if err := write(c.App.Writer, kept); err != nil {
		return err
	}
	if len(kept) < total {
		fmt.Fprintf(c.App.Writer, "... and %d more\n", total-len(kept))
	}
	return nil
}

// look is how connections are listed.
type look struct {
	brief bool // without TCP's own figures
	wide  bool // with why nothing cheaper carries them
	rates *rates
}

func writeConns(w io.Writer, rows []services.Row, how look) error {
	heads := []string{"ID", "SERVICE", "POLICY", "CARRIER", "STATE", "CLIENT", "BACKEND", "TO BACKEND", "TO CLIENT", "AGE", "IDLE"}
	if how.rates != nil {
		heads = append(heads, "RATE")
	}
	if how.wide {
		heads = append(heads, "WHY NOT CHEAPER")
	}
	t := newTable(heads...)
	for _, r := range rows {
		cells := []string{fmt.Sprint(r.ID), r.Service, r.Policy, carrier(r.Carrier), r.State, r.Client.String(), address(r.Backend),
			size(r.ToBackend), size(r.ToClient), span(r.Age), span(r.Idle)}
		if how.rates != nil {
			cells = append(cells, how.rates.of(r))
		}
		if how.wide {
			cells = append(cells, r.Why)
		}
		t.row(cells...)
	}
	var text strings.Builder
	if err := t.write(&text); err != nil {
		return err
	}
	lines := strings.SplitAfter(text.String(), "\n")
	for i, r := range rows {
		if !how.brief {
			lines[i+1] += sideLines(r)
		}
	}
	_, err := io.WriteString(w, strings.Join(lines, ""))
	return err
}

// sideLines shows both sides of a connection under its line.
func sideLines(r services.Row) string {
	s := fmt.Sprintf("\t%s -> %s %s\n", r.Client, r.Local, tcpLine(r.ClientInfo, r.ClientLife))
	if r.Backend.IsValid() {
		s += fmt.Sprintf("\t%s -> %s %s connect:%s retries:%d\n", r.Source, r.Backend, tcpLine(r.BackendInfo, r.BackendLife), span(r.Connect), r.Retries)
	}
	if len(r.Timers) > 0 {
		s += fmt.Sprintf("\tservice%s\n", timersCells(r.Timers))
	}
	return s
}

// timersCells are timers as ss -o shows them.
func timersCells(all []tcpinfo.Timer) string {
	var b strings.Builder
	for _, t := range all {
		fmt.Fprintf(&b, " timer:(%s,%s,%d)", t.Name, span(t.Left), t.Try)
	}
	return b.String()
}

// tcpLine is a snapshot of a connection in the words of ss -i. What is not known of
// a carried one, since the peers' own stacks retransmit, is left out.
func tcpLine(i services.Info, l services.Life) string {
	var words []string
	add := func(known bool, format string, args ...any) {
		if known {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(i.Timestamps, "ts")
	add(i.SACK, "sack")
	add(l.Options.Seen && l.Options.SndScale >= 0, "wscale:%d,%d", l.Options.SndScale, l.Options.RcvScale)
	add(i.RTO > 0, "rto:%s rtt:%s/%s", span(i.RTO), span(i.RTT), span(i.RTTVar))
	add(i.SndMSS > 0, "mss:%d", i.SndMSS)
	add(i.SndCwnd > 0, "cwnd:%d", i.SndCwnd)
	add(i.SndSsthresh > 0 && i.SndSsthresh < 1<<30, "ssthresh:%d", i.SndSsthresh)
	add(i.SegsOut+i.SegsIn > 0, "segs_out:%d segs_in:%d", i.SegsOut, i.SegsIn)
	add(i.Retrans > 0, "retrans:%d", i.Retrans)
	add(i.Backoff > 0, "backoff:%d", i.Backoff)
	add(i.Unacked > 0, "unacked:%d", i.Unacked)
	add(i.CaState != "" && i.CaState != "open", "ca_state:%s", i.CaState)
	add(i.CaState != "", "snd_wnd:%d rcv_wnd:%d", i.SndWnd, i.RcvWnd)
	add(l.Hint != "", "icmp:%s", l.Hint)
	return strings.Join(words, " ") + timersCells(i.Timers) + rcvQueue(i.RcvQueue)
}

func rcvQueue(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" rcvq:%d", n)
}

func writeEnded(w io.Writer, rows []services.Ended, wide bool) error {
	heads := []string{"ID", "SERVICE", "CARRIER", "CLIENT", "BACKEND", "REASON", "FIRST", "OUTCOME", "LAST ACK", "TO BACKEND", "TO CLIENT", "LASTED", "ENDED"}
	if wide {
		heads = append(heads, "WHY NOT CHEAPER")
	}
	t := newTable(heads...)
	for _, e := range rows {
		cells := []string{fmt.Sprint(e.ID), e.Service, carrier(e.Carrier), e.ClientAddr.String(), address(e.BackendAddr), e.Reason.String(), first(e.First),
			string(e.Outcome), lastACK(e), size(e.ToBackend), size(e.ToClient), span(e.Lasted), e.Opened.Add(e.Lasted).Format("15:04:05")}
		if wide {
			cells = append(cells, e.Why)
		}
		t.row(cells...)
	}
	return t.write(w)
}

// carrier is what moves a connection's bytes.
func carrier(by tcpinfo.Carrier) string { return cmp.Or(string(by), "-") }

func first(f services.First) string {
	if f.Who == "" {
		return "-"
	}
	return f.Who + " " + string(f.How)
}

// lastACK tells which of our FINs were acknowledged.
func lastACK(e services.Ended) string {
	side := func(s services.EndedSide) string {
		switch {
		case !s.Present:
			return "-"
		case s.FinAcked:
			return "yes"
		}
		return "no"
	}
	return side(e.Client) + "/" + side(e.Backend)
}

func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}
