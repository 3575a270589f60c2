package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// hasteRoom is how many bytes the heap may grow before the collector runs all
// the same.
const hasteRoom = 256 << 20

// haste lets all cores work and keeps the collector away, for the moment in which
// nothing moves and everybody waits. The function returned ends it.
func haste() (end func()) {
	threads := runtime.GOMAXPROCS(max(runtime.NumCPU(), runtime.GOMAXPROCS(0)))
	heap := []metrics.Sample{{Name: "/memory/classes/total:bytes"}}
	metrics.Read(heap)
	percent := debug.SetGCPercent(-1)
	limit := debug.SetMemoryLimit(int64(heap[0].Value.Uint64()) + hasteRoom)
	return func() {
		runtime.GOMAXPROCS(threads)
		debug.SetMemoryLimit(limit)
		debug.SetGCPercent(percent)
	}
}
