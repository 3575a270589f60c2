package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"
)

// setCollector lets the heap grow to five times what lives, up to half of the
// machine's memory, before it is collected: with Go's 100 percent a fifth
// fewer connections per second (docs/performance.md, 2026-11-23). What that
// costs in memory, tidy gives back. GOGC and GOMEMLIMIT have precedence.
func setCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	var info unix.Sysinfo_t
	if os.Getenv("GOMEMLIMIT") == "" && unix.Sysinfo(&info) == nil { // without it there is no limit, as ever
		debug.SetMemoryLimit(int64(info.Totalram) * int64(info.Unit) / 2)
	}
}

const (
	tidyEvery = 2 * time.Second
	tidyQuiet = 1 << 20 // bytes allocated in that time: less is quiet
	tidyWaste = 4 << 20 // bytes that a collection must promise to free
)

// tidy gives memory back to the kernel whenever nothing much happens, so that
// an idle connection costs what it needs and not what it took to make it. It
// runs until ctx ends.
func tidy(ctx context.Context) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	held := func() (total, held uint64) {
		metrics.Read(sample)
		return sample[0].Value.Uint64(), sample[1].Value.Uint64() + sample[2].Value.Uint64() + sample[3].Value.Uint64()
	}
	var before, kept uint64 // kept is what the last collection could not free
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		total, now := held()
		quiet := total-before < tidyQuiet
		before, kept = total, min(kept, now)
		if quiet && now > kept+tidyWaste {
			debug.FreeOSMemory()
			_, kept = held()
		}
	}
}
