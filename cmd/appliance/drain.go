package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
)

func drainCommand() *cli.Command {
	target := "TARGET is a service, a backend (10.2.0.2:8080 wherever it stands, or\n" +
		"web/10.2.0.2:8080 in one service), or the ID of a connection."
	order := []cli.Flag{
		socketFlag(),
		&cli.DurationFlag{Name: "deadline", Usage: "busy connections may take `TIME` to finish, instead of what the configuration says"},
		&cli.StringFlag{Name: "profile", Usage: "drain as `CAUSE` of drain.profiles: shutdown, reload, upgrade, backend, maintenance (default: backend for a backend, else maintenance)"},
	}
	return &cli.Command{
		Name:      "drain",
		Usage:     "end the connections of a service or backend in order, and refuse new ones",
		ArgsUsage: "[TARGET]",
		Description: target + "\n\n" +
			"New connections are refused, or go to other backends. Quiet connections get\n" +
			"FIN at once, busy ones when they are quiet or at the deadline; who does not\n" +
			"answer within fin_grace is reset. `appliance undrain` takes it back.\n" +
			"Without TARGET it shows the drains.\n\n" +
			"Exit status with --wait: 0 every connection ended with its last ACK, 3 some\n" +
			"had to be reset, 4 some FINs stayed unacknowledged.",
		Flags: append(order[:len(order):len(order)],
			stateDirFlag(),
			&cli.BoolFlag{Name: "all", Usage: "drain every service; the appliance goes on"},
			&cli.BoolFlag{Name: "stop", Usage: "drain everything and end the appliance, as SIGTERM does"},
			&cli.BoolFlag{Name: "wait", Aliases: []string{"w"}, Usage: "show the progress until it is over"},
			jsonFlag()),
		Action: drainAction,
		Subcommands: []*cli.Command{
			{
				Name: "plan", Usage: "tell what a drain would do now, and when", ArgsUsage: "[TARGET]", Description: target,
				Flags: append(order[:len(order):len(order)], jsonFlag()), Action: drainPlanAction,
			},
			{
				Name: "report", Usage: "tell how the last drain went, connection by connection", ArgsUsage: "[TARGET]",
				Description: "Without a running appliance it is the report that the last one left.",
				Flags:       []cli.Flag{socketFlag(), stateDirFlag(), jsonFlag()}, Action: drainReportAction,
			},
		},
	}
}

func undrainCommand() *cli.Command {
	return &cli.Command{
		Name: "undrain", Usage: "take a drain back: new connections come again", ArgsUsage: "[TARGET]",
		Description: "Connections that were told to end go on ending.",
		Flags:       []cli.Flag{socketFlag(), &cli.BoolFlag{Name: "all", Usage: "undrain every service"}},
		Action:      undrainAction,
	}
}

func orderOf(c *cli.Context) admin.DrainOrder {
	return admin.DrainOrder{Target: c.Args().First(), Cause: c.String("profile"), Deadline: c.Duration("deadline")}
}

func drainAction(c *cli.Context) error {
	o, client, begun := orderOf(c), admin.NewClient(c.String("socket")), time.Now()
	chosen := 0
	for _, is := range []bool{o.Target != "", c.Bool("all"), c.Bool("stop")} {
		if is {
			chosen++
		}
	}
	switch {
	case chosen > 1:
		return usageErr{errors.New("a TARGET, --all and --stop exclude each other")}
	case c.Duration("deadline") < 0:
		return usageErr{fmt.Errorf("--deadline %s: a deadline lies ahead", c.Duration("deadline"))}
	case chosen == 0:
		rows, err := client.Drains(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return writeJSON(c, rows)
		}
		return writeDrains(c.App.Writer, rows)
	case c.Bool("stop"):
		if err := client.Stop(c.Context); err != nil {
			return err
		}
	default:
		if err := client.Drain(c.Context, o); err != nil {
			return err
		}
	}
	if c.Bool("wait") && c.Bool("stop") {
		return awaitStop(c, client, begun)
	}
	if c.Bool("wait") {
		return awaitDrain(c, client, o.Target)
	}
	rows, err := client.Drains(c.Context)
	if err != nil || c.Bool("json") {
		return errors.Join(err, writeJSON(c, rows))
	}
	return writeDrains(c.App.Writer, running(rows, o.Target))
}

func undrainAction(c *cli.Context) error {
	target := c.Args().First()
	if (target == "") != c.Bool("all") {
		return usageErr{errors.New("name what to undrain, or --all: `appliance drain` shows what drains")}
	}
	if err := admin.NewClient(c.String("socket")).Undrain(c.Context, target); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.App.Writer, "%s takes new connections again\n", nameOf(target))
	return err
}

// matches reports whether a drain is one of what the name stands for.
func matches(r services.DrainRow, name string) bool {
	return name == "" && r.Conn == 0 && r.Backend == "" || name == r.Service && r.Backend == "" && r.Conn == 0 ||
		r.Backend != "" && (name == r.Backend || name == r.Service+"/"+r.Backend) || r.Conn != 0 && name == fmt.Sprint(r.Conn)
}

// running are the latest drains of what the name stands for.
func running(rows []services.DrainRow, name string) (some []services.DrainRow) {
	seen := map[services.Target]bool{}
	for _, r := range rows { // newest first
		if matches(r, name) && !seen[r.Target] {
			seen[r.Target] = true
			some = append(some, r)
		}
	}
	return some
}

func drainLine(r services.DrainRow) string { return r.Target.Name() + ": " + drainCounts(r) }

func drainCounts(r services.DrainRow) string {
	text := fmt.Sprintf("%s, %d left, %d clean, %d reset, %d unacked, %s", r.State, r.Left, r.Clean, r.Reset, r.Unacked, span(r.Took))
	if r.State == "draining" && r.Closes > 0 {
		text += ", deadline in " + span(r.Closes)
	}
	return text
}

func writeDrains(w io.Writer, rows []services.DrainRow) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "nothing drains")
		return err
	}
	t := newTable("TARGET", "CAUSE", "STATE", "LEFT", "CLEAN", "RESET", "UNACKED", "TOOK", "DEADLINE", "BEGAN")
	for _, r := range rows {
		closes := "-"
		if r.State == "draining" {
			closes = "in " + span(r.Closes)
		}
		t.row(r.Target.Name(), r.Cause, r.State, fmt.Sprint(r.Left), fmt.Sprint(r.Clean), fmt.Sprint(r.Reset), fmt.Sprint(r.Unacked),
			span(r.Took), closes, r.Began.Local().Format(time.TimeOnly))
	}
	return t.write(w)
}

func drainPlanAction(c *cli.Context) error {
	p, err := admin.NewClient(c.String("socket")).DrainPlan(c.Context, orderOf(c))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c, p)
	}
	return writePlan(c.App.Writer, p)
}

// writePlan tells what would happen, in the order it would.
func writePlan(w io.Writer, p admin.DrainPlan) error {
	var b strings.Builder
	quiet, busy := 0, 0
	for _, t := range p.Targets {
		fmt.Fprintf(&b, "%s: %s, %d of them quiet\n", t.Target.Name(), count(t.Quiet+t.Busy, "connection"), t.Quiet)
		quiet, busy = quiet+t.Quiet, busy+t.Busy
	}
	at := func(d time.Duration, format string, args ...any) {
		fmt.Fprintf(&b, "%10s  %s\n", "+"+span(d), fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "As the profile %s says:\n", p.Cause)
	refusal := "with RST"
	if p.Refuse == "silence" {
		refusal = "with silence"
	}
	switch {
	case p.Targets[0].Conn != 0:
	case p.Targets[0].Backend != "":
		at(0, "new connections go to other backends")
	default:
		at(0, "new connections are refused %s; handshakes under way finish", refusal)
	}
	if p.Spread > 0 {
		at(0, "%s FIN both ways, spread over %s; busy ones as soon as they are quiet", gets(quiet, "quiet connection"), span(p.Spread))
	} else {
		at(0, "%s FIN both ways; busy ones as soon as they are quiet for %s", gets(quiet, "quiet connection"), span(services.Quiet))
	}
	if p.Min > 0 {
		at(p.Min, "the earliest end")
	}
	deadline := min(p.Deadline, p.Max-p.FinGrace)
	at(deadline, "who is still busy gets FIN, at the most %s", count(busy, "connection"))
	if p.LingerRead < p.FinGrace {
		at(deadline+p.LingerRead, "who still sends is reset")
	}
	at(deadline+p.FinGrace, "who has not answered our FIN is reset: all is over")
	_, err := io.WriteString(w, b.String())
	return err
}

func gets(n int, noun string) string {
	if n == 1 {
		return "1 " + noun + " gets"
	}
	return fmt.Sprintf("%d %ss get", n, noun)
}

func drainReportAction(c *cli.Context) error {
	reports, err := admin.NewClient(c.String("socket")).DrainReports(c.Context)
	if err != nil {
		r, fileErr := loadReport(c.String("state-dir"))
		if fileErr != nil {
			return fileErr
		}
		reports = r.Services
	}
	if name := c.Args().First(); name != "" {
		var some []services.Report
		for _, r := range reports {
			if matches(services.DrainRow{Target: r.Target}, name) {
				some = append(some, r)
			}
		}
		reports = some
	}
	if c.Bool("json") {
		return writeJSON(c, reports)
	}
	return writeReports(c.App.Writer, reports)
}

// writeReports tells of each drain, newest first, and of each of its connections.
func writeReports(w io.Writer, reports []services.Report) error {
	if len(reports) == 0 {
		_, err := fmt.Fprintln(w, "no drain yet")
		return err
	}
	for i, r := range reports {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s (%s), begun %s, took %s: %d clean, %d reset, %d unacked\n", r.Target.Name(), r.Cause,
			r.Began.Local().Format(time.DateTime), span(r.Took), r.Clean, r.Reset, r.Unacked)
		if len(r.Connections) == 0 {
			continue
		}
		t := newTable("ID", "CLIENT", "BACKEND", "REASON", "FIRST FIN", "CLIENT'S ACK OF OUR FIN", "BACKEND'S", "OUTCOME")
		for _, e := range r.Connections {
			t.row(fmt.Sprint(e.ID), e.ClientAddr.String(), address(e.BackendAddr), e.Reason.String(), firstText(e.First),
				ackText(e.Client), ackText(e.Backend), string(e.Outcome))
		}
		if err := t.write(w); err != nil {
			return err
		}
		if r.Omitted > 0 {
			fmt.Fprintf(w, "... and %d more\n", r.Omitted)
		}
	}
	return nil
}

func firstText(f services.First) string {
	if f.Who == "" {
		return "-"
	}
	return f.Who + " " + string(f.How)
}

// ackText tells whether a side has acknowledged our FIN, and after how long.
func ackText(e services.EndedSide) string {
	switch {
	case !e.Present:
		return "-"
	case e.FinAcked:
		return "after " + moment(e.Life.FinAckedIn)
	case e.Reset:
		return "reset"
	case e.Died != "":
		return "died by " + string(e.Died)
	case !e.FIN:
		return "no FIN sent"
	}
	return "never"
}
