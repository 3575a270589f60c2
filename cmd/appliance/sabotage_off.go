//go:build !boottest

package main

import "github.com/lastack/lastack/internal/boot"

// sabotage is for the binary that boot tests put on their images; this isn't it.
func sabotage(o boot.Options) boot.Options { return o }

func sabotageAppliance() {}
