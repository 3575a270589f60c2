package main

import (
	"encoding/json"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/netif"
)

const defaultConfig = "/etc/appliance.yaml"

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "read the configuration from `FILE`",
		Value: defaultConfig, EnvVars: []string{"APPLIANCE_CONFIG"}, TakesFile: true}
}

func socketFlag() cli.Flag {
	return &cli.StringFlag{Name: "socket", Aliases: []string{"s"}, Usage: "ask the daemon behind the unix `SOCKET`",
		Value: config.DefaultSocket, EnvVars: []string{"APPLIANCE_SOCKET"}, TakesFile: true}
}

func stateDirFlag() cli.Flag {
	return &cli.StringFlag{Name: "state-dir", Usage: "remember the configuration of claimed cards, and their connections, in `DIR`",
		Value: netif.DefaultStateDir, EnvVars: []string{"APPLIANCE_STATE_DIR"}, TakesFile: true}
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "write JSON, for scripts"}
}

// writeJSON writes v for a script.
func writeJSON(c *cli.Context, v any) error {
	e := json.NewEncoder(c.App.Writer)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
