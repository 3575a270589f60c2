package main

import (
	"context"
	"os"
	"slices"
	"testing"

	"github.com/lastack/lastack/internal/carrytest"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// playRole makes the test program the appliance itself: tests start it as a
// process of its own.
const playRole = "LASTACK_TEST_APPLIANCE"

func TestMain(m *testing.M) {
	if how := os.Getenv(successorRole); how != "" && slices.Contains(os.Args, "--"+takeOverFlag) {
		os.Exit(badSuccessor(how))
	}
	if os.Getenv(playRole) != "" {
		os.Exit(execute(context.Background(), os.Args, os.Stdout, os.Stderr))
	}
	if carrytest.IsCrowd() {
		os.Exit(carrytest.PlayCrowd())
	}
	labtest.Main(m)
}
