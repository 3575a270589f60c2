package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
)

func connsCommand() *cli.Command {
	return &cli.Command{
		Name:  "conns",
		Usage: "list the connections of the running appliance, in the manner of ss -tni",
		Description: "A proxied connection has two sides, each with its own TCP state. The lines\n" +
			"under it show both: client -> ours, ours -> backend, with TCP's own figures.",
		Flags: []cli.Flag{socketFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "closed", Usage: "the last that ended, newest first, and why"},
			&cli.BoolFlag{Name: "brief", Aliases: []string{"b"}, Usage: "one line for each, without TCP's own figures"},
			&cli.StringFlag{Name: "service", Usage: "only the connections of `SERVICE`"},
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Usage: "at most `N` of them; 0 is all"},
		},
		Action: connsAction,
	}
}

func connsAction(c *cli.Context) error {
	client := admin.NewClient(c.String("socket"))
	if c.Bool("closed") {
		return list(c, client.Ended, func(e services.Ended) string { return e.Service }, writeEnded)
	}
	return list(c, client.Conns, func(r services.Row) string { return r.Service },
		func(w io.Writer, rows []services.Row) error { return writeConns(w, rows, c.Bool("brief")) })
}

// list fetches connections, keeps those asked for and writes them.
func list[T any](c *cli.Context, fetch func(context.Context) ([]T, error), service func(T) string, write func(io.Writer, []T) error) error {
	rows, err := fetch(c.Context)
	if err != nil {
		return err
	}
	kept := rows[:0]
	for _, r := range rows {
		if want := c.String("service"); want == "" || service(r) == want {
			kept = append(kept, r)
		}
	}
	total := len(kept)
	if n := c.Int("limit"); n > 0 {
		kept = kept[:min(n, total)]
	}
	if c.Bool("json") {
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

func writeConns(w io.Writer, rows []services.Row, brief bool) error {
	t := newTable("ID", "SERVICE", "STATE", "CLIENT", "BACKEND", "TO BACKEND", "TO CLIENT", "AGE", "IDLE")
	for _, r := range rows {
		t.row(fmt.Sprint(r.ID), r.Service, r.State, r.Client.String(), address(r.Backend),
			size(r.ToBackend), size(r.ToClient), span(r.Age), span(r.Idle))
	}
	var text strings.Builder
	if err := t.write(&text); err != nil {
		return err
	}
	lines := strings.SplitAfter(text.String(), "\n")
	for i, r := range rows {
		if !brief {
			lines[i+1] += sideLines(r)
		}
	}
	_, err := io.WriteString(w, strings.Join(lines, ""))
	return err
}

// sideLines shows both sides of a connection under its line.
func sideLines(r services.Row) string {
	s := fmt.Sprintf("\t%s -> %s %s\n", r.Client, r.Local, tcpLine(r.ClientInfo))
	if r.Backend.IsValid() {
		s += fmt.Sprintf("\t%s -> %s %s connect:%s retries:%d\n", r.Source, r.Backend, tcpLine(r.BackendInfo), span(r.Connect), r.Retries)
	}
	return s
}

// tcpLine is a snapshot of a connection in the words of ss -i.
func tcpLine(i services.Info) string {
	var b strings.Builder
	if i.Timestamps {
		b.WriteString("ts ")
	}
	if i.SACK {
		b.WriteString("sack ")
	}
	fmt.Fprintf(&b, "rto:%s rtt:%s/%s", span(i.RTO), span(i.RTT), span(i.RTTVar))
	if i.SndMSS > 0 {
		fmt.Fprintf(&b, " mss:%d", i.SndMSS)
	}
	fmt.Fprintf(&b, " cwnd:%d", i.SndCwnd)
	if i.SndSsthresh > 0 && i.SndSsthresh < 1<<30 {
		fmt.Fprintf(&b, " ssthresh:%d", i.SndSsthresh)
	}
	fmt.Fprintf(&b, " segs_out:%d segs_in:%d", i.SegsOut, i.SegsIn)
	if i.Retrans > 0 {
		fmt.Fprintf(&b, " retrans:%d", i.Retrans)
	}
	if i.RcvQueue > 0 {
		fmt.Fprintf(&b, " rcvq:%d", i.RcvQueue)
	}
	return b.String()
}

func writeEnded(w io.Writer, rows []services.Ended) error {
	t := newTable("ID", "SERVICE", "CLIENT", "BACKEND", "REASON", "FIRST", "OUTCOME", "LAST ACK", "TO BACKEND", "TO CLIENT", "LASTED", "ENDED")
	for _, e := range rows {
		t.row(fmt.Sprint(e.ID), e.Service, e.ClientAddr.String(), address(e.BackendAddr), e.Reason.String(), first(e.First),
			string(e.Outcome), lastACK(e), size(e.ToBackend), size(e.ToClient), span(e.Lasted), e.Opened.Add(e.Lasted).Format("15:04:05"))
	}
	return t.write(w)
}

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
