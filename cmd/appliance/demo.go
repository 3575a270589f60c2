package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/internal/demo"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "show the main job in network namespaces, without root",
		Description: "Makes a client, an appliance and backends in network namespaces of their own,\n" +
			"sends real HTTP through, and stops the appliance under load. It takes\n" +
			"some 15 seconds and leaves nothing behind.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "keep", Usage: "leave it running until Ctrl-C, and show commands to try"},
		},
		Action: demoAction,
	}
}

func demoAction(c *cli.Context) error {
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return demo.Run(ctx, demo.Options{
		Out: c.App.Writer, Program: program, Keep: c.Bool("keep"),
		Color: terminal(c.App.Writer) && os.Getenv("NO_COLOR") == "", Width: width(c.App.Writer),
	})
}
