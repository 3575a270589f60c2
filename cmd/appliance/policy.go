package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/config/predict"
)

func policyCommand() *cli.Command {
	return &cli.Command{
		Name:   "policy",
		Usage:  "show the policies of a configuration and what they mean in time",
		Action: noCommand,
		Subcommands: []*cli.Command{
			{
				Name:   "list",
				Usage:  "list the policies and who uses them",
				Flags:  []cli.Flag{configFlag(), jsonFlag()},
				Action: policyListAction,
			},
			{
				Name:      "show",
				Usage:     "show one policy with its defaults filled in, when it gives peers up, and how Linux compares",
				ArgsUsage: "NAME",
				Flags: []cli.Flag{configFlag(), jsonFlag(),
					&cli.DurationFlag{Name: "rtt", Usage: "round-trip time of the peer; without it one that was not measured yet", Value: 0}},
				Action: policyShowAction,
			},
		},
	}
}

// loadConfig loads a configuration or shows what is wrong with it.
func loadConfig(c *cli.Context) (*config.Config, error) {
	cfg, err := config.Load(c.String("config"))
	var wrong config.Errors
	if errors.As(err, &wrong) {
		return nil, refuse(c, wrong)
	}
	return cfg, err
}

func policyListAction(c *cli.Context) error {
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	users := make(map[string][]string)
	for _, s := range cfg.Services {
		users[s.Policy] = append(users[s.Policy], s.Name)
	}
	names := slices.Sorted(maps.Keys(cfg.Policies))
	if c.Bool("json") {
		type row struct {
			Name     string   `json:"name"`
			Services []string `json:"services"`
		}
		rows := []row{}
		for _, name := range names {
			rows = append(rows, row{name, append([]string{}, users[name]...)})
		}
		return writeJSON(c, rows)
	}
	t := newTable("POLICY", "IDLE PEER", "BUSY PEER", "HALF CLOSE", "FIN_WAIT_2", "TIME_WAIT", "SERVICES")
	for _, name := range names {
		p := cfg.Policies[name]
		t.row(name, limitText(predict.Idle(p).GiveUp), limitText(predict.Data(p, 0).GiveUp), limitText(p.HalfClose), limitText(p.FinWait2),
			limitText(max(p.TimeWait.Duration, 0)), strings.Join(users[name], " "))
	}
	return t.write(c.App.Writer)
}

// meaning is what a policy comes to.
type meaning struct {
	Name      string           `json:"name"`
	Policy    string           `json:"policy"` // as YAML, with the defaults filled in
	Idle      predict.Schedule `json:"idle"`
	Data      predict.Schedule `json:"data"`
	Handshake predict.Schedule `json:"handshake"`
}

func policyShowAction(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageErr{errors.New("name one policy, as in `appliance policy show default`: see `appliance policy list`")}
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	name := c.Args().First()
	p, ok := cfg.Policies[name]
	if !ok {
		return fmt.Errorf("no policy is called %q in %s; there are %s", name, c.String("config"), strings.Join(slices.Sorted(maps.Keys(cfg.Policies)), ", "))
	}
	text, err := p.Effective()
	if err != nil {
		return err
	}
	m := meaning{name, text, predict.Idle(p), predict.Data(p, c.Duration("rtt")), predict.Handshake(p)}
	if c.Bool("json") {
		return writeJSON(c, m)
	}
	return writePolicy(c.App.Writer, p, m, c.Duration("rtt"))
}

func writePolicy(w io.Writer, p config.Policy, m meaning, rtt time.Duration) error {
	fmt.Fprintf(w, "%s\n", m.Policy)
	measured := "before a round trip was measured"
	if rtt > 0 {
		measured = "with a round trip of " + span(rtt)
	}
	if m.Idle.GiveUp > 0 {
		fmt.Fprintf(w, "An unplugged peer is noticed after %s when idle (%s), and after %s with data in flight (%s).\n",
			limitText(m.Idle.GiveUp), m.Idle.Rule, limitText(m.Data.GiveUp), m.Data.Rule)
	} else {
		fmt.Fprintf(w, "An unplugged idle peer is never noticed: keepalive is off. With data in flight it is after %s (%s).\n",
			limitText(m.Data.GiveUp), m.Data.Rule)
	}
	fmt.Fprintf(w, "A lost segment is sent again after %s (%s).\n", moments(m.Data.Repeats), measured)
	fmt.Fprintf(w, "A SYN or SYN-ACK is sent again after %s and given up after %s.\n\n", moments(m.Handshake.Repeats), limitText(m.Handshake.GiveUp))
	linux := predict.LinuxDefaults()
	t := newTable("BOUND", "HERE", "LINUX'S DEFAULT")
	t.row("idle peer vanished", limitText(m.Idle.GiveUp), limitText(linux.Idle)+", where the program asks for keepalive; else never")
	t.row("peer vanished, data in flight", limitText(m.Data.GiveUp), "about "+limitText(linux.Data.Round(time.Second)))
	t.row("SYN unanswered", limitText(m.Handshake.GiveUp), limitText(linux.SYN))
	t.row("SYN-ACK unanswered", limitText(m.Handshake.GiveUp), limitText(linux.SYNACK))
	t.row("half-closed and silent", limitText(p.HalfClose), "never")
	t.row("FIN-WAIT-1", limitText(p.FinWait1), "about "+limitText(linux.Orphan.Round(time.Second))+" once closed; else as data")
	t.row("FIN-WAIT-2", limitText(p.FinWait2), limitText(linux.FinWait2)+" once closed; else never")
	t.row("CLOSING", limitText(p.Closing), "about "+limitText(linux.Orphan.Round(time.Second)))
	t.row("LAST-ACK", limitText(p.LastAck), "about "+limitText(linux.Orphan.Round(time.Second)))
	t.row("CLOSE-WAIT, nothing moves", limitText(p.CloseWait), "never")
	t.row("window closed", limitText(p.ZeroWindow), "never, while the peer answers")
	t.row("TIME-WAIT", limitText(max(p.TimeWait.Duration, 0)), limitText(linux.TimeWait)+", fixed")
	t.row("TIME-WAITs at once", fmt.Sprint(p.TimeWait.Max), fmt.Sprintf("%d, the box's", linux.TimeWaits))
	return t.write(w)
}

// limitText is a time, or never.
func limitText(d time.Duration) string {
	switch {
	case d < 0:
		return "never"
	case d == 0:
		return "0s"
	}
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = strings.TrimSuffix(text, zero[1:])
		}
	}
	return text
}

// moments is "0.2, 0.4 and 0.8 s".
func moments(all []time.Duration) string {
	if len(all) == 0 {
		return "no time at all: it is never repeated"
	}
	parts := make([]string, len(all))
	for i, d := range all {
		parts[i] = fmt.Sprintf("%.3g", d.Seconds())
	}
	if len(parts) == 1 {
		return parts[0] + " s"
	}
	return strings.Join(parts[:len(parts)-1], ", ") + " and " + parts[len(parts)-1] + " s"
}
