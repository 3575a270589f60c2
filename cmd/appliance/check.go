package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/config"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "check a configuration and show every mistake in it",
		ArgsUsage: "[FILE]",
		Description: "Nothing is touched and nothing needs to run. The exit status is 0 for a\n" +
			"configuration that `appliance run` takes, 2 for one it refuses.",
		Flags:  []cli.Flag{configFlag(), jsonFlag()},
		Action: checkAction,
	}
}

// finding is one config.Error for a script.
type finding struct {
	File     string `json:"file"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Key      string `json:"key,omitempty"`
	Severity string `json:"severity"` // "error" or "warning"
	Message  string `json:"message"`
	Allowed  string `json:"allowed,omitempty"`
}

func checkAction(c *cli.Context) error {
	path := c.String("config")
	if c.NArg() > 0 {
		if c.IsSet("config") {
			return usageErr{errors.New("the file is named twice: by -c and as an argument")}
		}
		path = c.Args().First()
	}
	cfg, err := config.Load(path)
	var wrong config.Errors
	if err != nil && !errors.As(err, &wrong) {
		return err
	}
	if c.Bool("json") {
		return checkJSON(c, path, cfg, wrong)
	}
	if err != nil {
		return refuse(c, wrong)
	}
	for _, w := range cfg.Warnings() {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", w.Error())
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s is correct: %s, %s, %s\n", path,
		count(len(cfg.Interfaces), "interface"), count(len(cfg.Services), "service"), count(len(cfg.Policies), "policy"))
	return err
}

func checkJSON(c *cli.Context, path string, cfg *config.Config, wrong config.Errors) error {
	out := struct {
		File     string    `json:"file"`
		OK       bool      `json:"ok"`
		Findings []finding `json:"findings"`
	}{File: path, OK: len(wrong) == 0, Findings: []finding{}}
	add := func(severity string, all []config.Error) {
		for _, e := range all {
			out.Findings = append(out.Findings, finding{e.File, e.Pos.Line, e.Pos.Column, e.Key, severity, e.Message, e.Allowed})
		}
	}
	add("error", wrong)
	if cfg != nil {
		add("warning", cfg.Warnings())
	}
	if err := writeJSON(c, out); err != nil {
		return err
	}
	if !out.OK {
		return exitCode(exitUsage)
	}
	return nil
}

// refuse shows what is wrong with a configuration.
func refuse(c *cli.Context, wrong config.Errors) error {
	for _, e := range wrong {
		fmt.Fprintln(c.App.ErrWriter, e.Error())
	}
	if len(wrong) > 1 {
		fmt.Fprintf(c.App.ErrWriter, "%d mistakes in %s\n", len(wrong), wrong[0].File)
	}
	return exitCode(exitUsage)
}
