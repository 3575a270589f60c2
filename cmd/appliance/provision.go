package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/provision"
	"github.com/lastack/lastack/internal/sshd"
)

func provisionCommand() *cli.Command {
	return &cli.Command{
		Name: "provision", Usage: "take lastack.yaml and authorized_keys from a medium, before the appliance runs", ArgsUsage: "DIR...",
		Description: "What was taken once is not taken again, so that a medium may stay where it is;\n" +
			"what is wrong is named and changes nothing. The configuration of before stays in\n" +
			"the history. The firmware does this at each boot.",
		Flags: []cli.Flag{
			configFlag(), stateDirFlag(),
			&cli.StringFlag{Name: "keys", Usage: "put the keys that may log in by SSH into `FILE`", Value: "/etc/lastack/authorized_keys", TakesFile: true},
		},
		Action: provisionAction,
	}
}

func provisionAction(c *cli.Context) error {
	if c.NArg() == 0 {
		return usageErr{errors.New("name the directories to look in")}
	}
	all, err := takeProvisions(c.String("config"), c.String("keys"), c.String("state-dir"), c.Args().Slice()...)
	refused := false
	for _, o := range all {
		fmt.Fprintln(c.App.Writer, o)
		refused = refused || o.What == provision.Refused
	}
	if err == nil && refused {
		return exitCode(exitUsage)
	}
	return err
}

// takeProvisions takes what is new on media into a box's files.
func takeProvisions(configFile, keys, stateDir string, media ...string) ([]provision.Outcome, error) {
	return provision.Take(provision.Target{
		Config: configFile, Keys: keys, StateDir: stateDir,
		Check: func(text []byte) error {
			_, err := config.Parse(provision.ConfigName, text)
			return err
		},
		Keep: func(text []byte) error {
			got, err := sshd.ReadKeys(string(text))
			if err == nil && len(got) == 0 {
				err = errors.New("there is no key in it")
			}
			return err
		},
	}, media...)
}
