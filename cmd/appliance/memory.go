package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	tidyEvery = 2 * time.Second
	tidyQuiet = 1 << 20 // bytes allocated in that time: less is quiet
	tidyWaste = 4 << 20 // bytes that a collection must promise to free, an eighth of what is kept if that is more
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
		if quiet && now > kept+max(tidyWaste, kept/8) {
			runtime.GC() // empties one half of every sync.Pool, the next one the other
			debug.FreeOSMemory()
			_, kept = held()
		}
	}
}
