package main

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/lastack/lastack/internal/timesync"
	"github.com/lastack/lastack/services/admin"
)

// built is set by the linker: when this version was committed, in Unix seconds.
var built string

// builtAt is that time, zero if it is not known.
func builtAt() time.Time {
	seconds, err := strconv.ParseInt(built, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// timekeeper asks for the time while the daemon runs.
type timekeeper struct {
	*timesync.Keeper
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// startTime begins to ask, if the configuration says so.
func (d *daemon) startTime() {
	conf := d.conf().Time
	if !conf.Asked {
		return
	}
	o := timesync.Options{
		Servers: d.timeServers, Built: builtAt(), Log: d.log,
		Dial: func(a netip.AddrPort) (net.Conn, error) { return d.stack.DialUDP(a) },
	}
	if conf.Set {
		o.Clock = timesync.Kernel{}
	}
	ctx, stop := context.WithCancel(context.Background())
	t := &timekeeper{Keeper: timesync.New(o), stop: stop}
	t.wg.Go(func() { t.Run(ctx) })
	d.time.Store(t)
}

// close ends it and waits.
func (t *timekeeper) close() {
	t.stop()
	t.wg.Wait()
}

// wakeTime asks at once: an address has come, and maybe a server with it.
func (d *daemon) wakeTime() {
	if t := d.time.Load(); t != nil {
		t.Wake()
	}
}

// timeServers are those of the file, or else those of DHCP.
func (d *daemon) timeServers() []netip.AddrPort {
	all := d.conf().Time.Servers
	if len(all) > 0 {
		return all
	}
	for _, a := range d.leases.ntp() {
		all = append(all, netip.AddrPortFrom(a, 123))
	}
	return all
}

// statusTime is what is known of the time, or nil.
func (d *daemon) statusTime() *admin.Time {
	t := d.time.Load()
	if t == nil {
		return nil
	}
	s := t.Status()
	return &admin.Time{Server: s.Server, Offset: s.Offset, RTT: s.RTT, Stratum: s.Stratum, At: s.At, Sets: s.Sets, Steps: s.Steps, Error: s.Error}
}
