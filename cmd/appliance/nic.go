package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/netif"
)

func nicCommand() *cli.Command {
	return &cli.Command{
		Name:  "nic",
		Usage: "show network cards, give one back to the kernel",
		Subcommands: []*cli.Command{
			{
				Name:   "list",
				Usage:  "show the network cards, who holds them and which could be taken",
				Flags:  []cli.Flag{stateDirFlag(), jsonFlag()},
				Action: nicListAction,
			},
			{
				Name:      "release",
				Usage:     "give a card back to the kernel as it was, after the appliance has crashed",
				ArgsUsage: "[NAME]",
				Flags: []cli.Flag{stateDirFlag(),
					&cli.BoolFlag{Name: "all", Usage: "every card that a crashed appliance held"}},
				Action: nicReleaseAction,
			},
		},
	}
}

func nicListAction(c *cli.Context) error {
	cards, err := netif.List(c.String("state-dir"))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c, cards)
	}
	t := newTable("NAME", "KIND", "STATE", "MTU", "MAC", "DRIVER", "HELD BY", "KERNEL ADDRESSES", "NOTE")
	for _, card := range cards {
		t.row(card.Name, card.Kind, state(card), fmt.Sprint(card.MTU), card.MAC, card.Driver, holder(card),
			strings.Join(card.Addresses, " "), note(card))
	}
	return t.write(c.App.Writer)
}

func state(card netif.Card) string {
	if !card.Up {
		return "down"
	}
	if card.Oper == "up" || card.Oper == "unknown" {
		return "up"
	}
	return "up, " + card.Oper
}

func holder(card netif.Card) string {
	switch h := card.Holder; {
	case h == nil:
		return "kernel"
	case h.PID == 0:
		return "another appliance"
	case h.Alive:
		return fmt.Sprintf("appliance (pid %d)", h.PID)
	default:
		return fmt.Sprintf("nobody (pid %d crashed)", h.PID)
	}
}

func note(card netif.Card) string {
	switch {
	case card.Holder != nil && !card.Holder.Alive:
		return fmt.Sprintf("`appliance nic release %s` gives it back", card.Name)
	case card.Holder != nil && card.Holder.PID != 0:
		return ""
	case !card.Suitable:
		return card.Reason
	case len(card.SSH) > 0:
		return "carries an SSH session: taking it cuts that off"
	case card.DefaultRoute:
		return "has the default route: taking it cuts this machine off"
	}
	return "could be taken"
}

func nicReleaseAction(c *cli.Context) error {
	dir := c.String("state-dir")
	if !c.Bool("all") {
		if c.NArg() != 1 {
			return usageErr{errors.New("which card? `appliance nic release NAME`, or --all (see `appliance nic list`)")}
		}
		return release(c, c.Args().First(), dir)
	}
	if c.NArg() > 0 {
		return usageErr{errors.New("either a card's name or --all")}
	}
	cards, err := netif.List(dir)
	if err != nil {
		return err
	}
	var errs []error
	n := 0
	for _, card := range cards {
		if card.Holder != nil && !card.Holder.Alive {
			n++
			errs = append(errs, release(c, card.Name, dir))
		}
	}
	if n == 0 {
		fmt.Fprintln(c.App.Writer, "no crashed appliance holds a card")
	}
	return errors.Join(errs...)
}

func release(c *cli.Context, name, dir string) error {
	if err := netif.Release(name, dir); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.App.Writer, "%s is the kernel's again, as it was before\n", name)
	return err
}
