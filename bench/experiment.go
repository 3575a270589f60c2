package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// figure is one row of the result.
type figure struct {
	Key   string `json:"key"`
	Title string `json:"title"`
	Unit  string `json:"unit"`
	Less  bool   `json:"less_is_better"`
}

// experiment measures some figures at once.
type experiment struct {
	key     string
	figures []figure
	// rate is how many requests per second a peer gets, by what every peer can do.
	rate func(requests map[string][]float64, peerName string) float64
	// fresh is whether each measurement needs processes that did nothing yet.
	fresh bool
	// measure returns a value for each figure.
	measure func(ctx context.Context, t trial) ([]float64, error)
}

// trial is what one measurement may use.
type trial struct {
	rig            *rig
	warmup, length time.Duration
	rate           float64 // requests per second, where the experiment sets it
	idle           int     // connections
	note           func(format string, args ...any)
}

// connections is how many there are in the experiments with requests.
const connections = 64

// experiments stand in the order they run in: latency needs what requests found.
var experiments = []experiment{
	{key: "stream", figures: []figure{{"stream", "1 stream", "Gbit/s", false}}, measure: streams(1)},
	{key: "streams", figures: []figure{{"streams", "4 streams", "Gbit/s", false}}, measure: streams(4)},
	{key: "requests", figures: []figure{{"requests", "keep-alive requests, 64 conns", "1/s", false}}, measure: requestRate},
	{key: "half", figures: []figure{
		{"half_p50", "latency at half load, p50", "µs", true},
		{"half_p99", "latency at half load, p99", "µs", true},
	}, rate: halfOfOwn, measure: latency},
	{key: "latency", figures: []figure{
		{"p50", "latency at the same rate, p50", "µs", true},
		{"p99", "latency at the same rate, p99", "µs", true},
	}, rate: halfOfSlower, measure: latency},
	{key: "connects", figures: []figure{{"connects", "new connections", "1/s", false}}, measure: connectRate},
	{key: memoryKey, figures: []figure{
		{processMemory, "resident per idle connection", "KiB", true},
		{wholeMemory, "per idle connection, kernel's too", "KiB", true},
	}, fresh: true, measure: memory},
}

const (
	memoryKey     = "memory"
	processMemory = "resident"
	wholeMemory   = "memory"
)

// halfOfOwn is half of what the peer itself can do.
func halfOfOwn(requests map[string][]float64, peerName string) float64 {
	return median(requests[peerName]) / 2
}

// halfOfSlower is half of what the slowest of the proxies can do, for everybody.
func halfOfSlower(requests map[string][]float64, _ string) float64 {
	rate := math.Inf(1)
	for name := range requests {
		if name != routing {
			rate = min(rate, halfOfOwn(requests, name))
		}
	}
	return rate
}

func experimentKeys() []string {
	var keys []string
	for _, e := range experiments {
		keys = append(keys, e.key)
	}
	return keys
}

// experimentCalled returns one of the table.
func experimentCalled(key string) experiment {
	return experiments[slices.Index(experimentKeys(), key)]
}

// streams measures what arrives at the server.
func streams(n int) func(context.Context, trial) ([]float64, error) {
	return func(ctx context.Context, t trial) (_ []float64, err error) {
		l := load{mode: modeBulk, addr: t.rig.target(bulkPort), conns: n}
		sender, err := hold(ctx, t.rig.client, "the load", l.args()...)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, sender.close()) }()
		before, err := t.countAfter(ctx, t.warmup)
		if err != nil {
			return nil, err
		}
		after, err := t.countAfter(ctx, t.length)
		if err != nil {
			return nil, err
		}
		if err := sender.alive(); err != nil {
			return nil, err
		}
		return []float64{gigabits(before, after)}, nil
	}
}

// countAfter asks the server after a while.
func (t trial) countAfter(ctx context.Context, d time.Duration) (counts, error) {
	if err := pause(ctx, d); err != nil {
		return counts{}, err
	}
	return t.rig.serving.counts()
}

func gigabits(before, after counts) float64 {
	return float64(after.Bytes-before.Bytes) * 8 / 1e9 / (after.At - before.At).Seconds()
}

func (t trial) load(mode string) load {
	return load{mode: mode, addr: t.rig.target(httpPort), conns: connections, warmup: t.warmup, length: t.length, rate: t.rate}
}

func requestRate(ctx context.Context, t trial) ([]float64, error) {
	o, err := runLoad(ctx, t.rig.client, t.load(modeRequests))
	return []float64{o.perSecond()}, err
}

func latency(ctx context.Context, t trial) ([]float64, error) {
	o, err := runLoad(ctx, t.rig.client, t.load(modePaced))
	return []float64{microseconds(o.P50), microseconds(o.P99)}, err
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func connectRate(ctx context.Context, t trial) ([]float64, error) {
	o, err := runLoad(ctx, t.rig.client, t.load(modeConnects))
	if err != nil || o.Failed == 0 {
		return []float64{o.perSecond()}, err
	}
	t.note("%s: %d connections failed besides %d that did not, the first with: %s", t.rig.peer.title, o.Failed, o.Count, o.Failure)
	if o.Failed*100 > o.Count {
		err = errors.New("more than 1% of the connections failed")
	}
	return []float64{o.perSecond()}, err
}

// quiet is how long everything is left alone before memory is read: a process
// may give back what it took to become what it is, and the kernel what it had
// for those before.
const quiet = 6 * time.Second

// memory compares memory before and after many clients connected, had one
// answer, and fell silent: the peer's process, and that with all that the
// kernel uses. The kernel's share for clients and servers is in the second, as it
// is in that of kernel routing, which is to be taken off.
func memory(ctx context.Context, t trial) (_ []float64, err error) {
	before, err := t.memoryAfter(ctx, quiet)
	if err != nil {
		return nil, err
	}
	l := load{mode: modeIdle, addr: t.rig.target(httpPort), conns: t.idle}
	clients, err := hold(ctx, t.rig.client, "the load", l.args()...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, clients.close()) }()
	after, err := t.memoryAfter(ctx, quiet)
	if err != nil {
		return nil, err
	}
	c, err := t.rig.serving.counts()
	if err == nil && c.Open < int64(t.idle) {
		err = fmt.Errorf("only %d of %d idle connections reach the server", c.Open, t.idle)
	}
	each := func(bytes int64) float64 { return float64(bytes) / 1024 / float64(t.idle) }
	return []float64{each(after.process - before.process), each(after.process - before.process + after.kernel - before.kernel)}, err
}

// memoryUse is in bytes.
type memoryUse struct{ process, kernel int64 }

func (t trial) memoryAfter(ctx context.Context, d time.Duration) (m memoryUse, err error) {
	if err := pause(ctx, d); err != nil {
		return m, err
	}
	var err1, err2 error
	m.process, err1 = t.rig.proxy.residentBytes()
	m.kernel, err2 = kernelBytes()
	return m, errors.Join(err1, err2)
}

// pause lets the processes be for a while.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
