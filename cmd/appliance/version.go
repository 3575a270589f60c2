package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:   "version",
		Usage:  "tell what this binary was made of",
		Flags:  []cli.Flag{jsonFlag()},
		Action: versionAction,
	}
}

type versionInfo struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	GVisor  string `json:"gvisor"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func versionAction(c *cli.Context) error {
	v := versionInfo{Version: version, Go: runtime.Version(), GVisor: gvisorVersion(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if c.Bool("json") {
		return writeJSON(c, v)
	}
	_, err := fmt.Fprintf(c.App.Writer, "appliance %s (gVisor %s, %s, %s/%s)\n", v.Version, v.GVisor, v.Go, v.OS, v.Arch)
	return err
}

func gvisorVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "gvisor.dev/gvisor" {
				return m.Version
			}
		}
	}
	return "unknown"
}
