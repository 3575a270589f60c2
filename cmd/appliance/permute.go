package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// permute moves a command's flags before its arguments, where the parser looks
// for them: `drain web --wait` is how people write it. "--" ends the flags.
func permute(app *cli.App, args []string) []string {
	if len(args) < 2 {
		return args
	}
	at, flags, commands := 1, app.Flags, app.Commands
	for at < len(args) {
		next := find(commands, args[at])
		if next == nil {
			break
		}
		at, flags, commands = at+1, next.Flags, next.Subcommands
	}
	var options, others []string
	for rest := args[at:]; len(rest) > 0; {
		one := rest[0]
		rest = rest[1:]
		switch {
		case one == "--":
			others, rest = append(append(others, one), rest...), nil
		case len(one) < 2 || one[0] != '-':
			others = append(others, one)
		default:
			options = append(options, one)
			if takesValue(flags, one) && len(rest) > 0 {
				options, rest = append(options, rest[0]), rest[1:]
			}
		}
	}
	return append(append(append([]string(nil), args[:at]...), options...), others...)
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// takesValue reports whether the argument after a flag is its value.
func takesValue(flags []cli.Flag, option string) bool {
	if strings.Contains(option, "=") {
		return false
	}
	for _, f := range flags {
		for _, name := range f.Names() {
			if name == strings.TrimLeft(option, "-") {
				d, ok := f.(cli.DocGenerationFlag)
				return ok && d.TakesValue()
			}
		}
	}
	return false
}
