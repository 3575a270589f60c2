package main

import (
	"io"
	"slices"
	"strings"
	"testing"
)

func TestFlagsMayFollowArguments(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	for given, want := range map[string]string{
		"a drain web --wait":                        "a drain --wait web",
		"a drain web --deadline 3s --json":          "a drain --deadline 3s --json web",
		"a drain web --deadline=3s -w":              "a drain --deadline=3s -w web",
		"a drain plan web --socket s":               "a drain plan --socket s web",
		"a drain -- --web --wait":                   "a drain -- --web --wait",
		"a conn kill 42 --rst":                      "a conn kill --rst 42",
		"a conns state time-wait --json":            "a conns --json state time-wait",
		"a nothing --like this":                     "a --like nothing this",
		"a":                                         "a",
		"a drain web --deadline":                    "a drain --deadline web",
		"a conns dst 10.0.0.0/8 - --socket /x.sock": "a conns --socket /x.sock dst 10.0.0.0/8 -",
	} {
		if got := permute(app, strings.Fields(given)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%q becomes %q, want %q", given, strings.Join(got, " "), want)
		}
	}
}
