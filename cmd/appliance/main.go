package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/internal/boot"
)

// version is set by the linker: git describe.
var version = "unknown"

func main() {
	if boot.IsBox(os.Getpid(), os.Args) {
		boot.Main(sabotage(firmware()))
	}
	os.Exit(execute(context.Background(), os.Args, os.Stdout, os.Stderr))
}

func newApp(stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:                 "appliance",
		Usage:                "a TCP proxy with its own network stack: every connection gets its last ACK",
		Version:              version,
		HideVersion:          true, // `appliance version` tells more
		EnableBashCompletion: true,
		Suggest:              true,
		Writer:               stdout,
		ErrWriter:            stderr,
		ExitErrHandler:       func(*cli.Context, error) {}, // execute reports
		OnUsageError:         usageError,
		Action:               noCommand,
		Commands: []*cli.Command{
			runCommand(), checkCommand(), demoCommand(),
			statusCommand(), connsCommand(), connCommand(), drainCommand(), undrainCommand(), configCommand(), reloadCommand(), upgradeCommand(), suspendCommand(), policyCommand(), consoleCommand(), passwdCommand(), provisionCommand(), nicCommand(), imageCommand(), qemuCommand(),
			updateCommand(), rebootCommand(), poweroffCommand(), factoryResetCommand(), boxLogCommand(), confinedCommand(), versionCommand(),
		},
	}
}

// execute runs one command line and gives its exit status.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return perform(ctx, newApp(stdout, stderr), args, stderr)
}

// perform runs one command line of an app.
func perform(ctx context.Context, app *cli.App, args []string, stderr io.Writer) int {
	for _, c := range app.Commands {
		strict(c, "appliance")
	}
	err := app.RunContext(ctx, permute(app, args))
	var code exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintf(stderr, "appliance: %v\n", err)
	var usage usageErr
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitError
}
