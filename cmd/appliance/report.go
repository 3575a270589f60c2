package main

import (
	"context"
	"encoding/json"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/lastack/lastack/netif"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
	"github.com/lastack/lastack/services/proxy"
)

var _ admin.Source = (*daemon)(nil)

// Status implements admin.Source.
func (d *daemon) Status() admin.Status {
	phase := "serving"
	if d.draining.Load() {
		phase = "draining"
	}
	s := admin.Status{
		Version: version, PID: os.Getpid(), Config: d.conf().File, Started: d.started, Phase: phase,
		Threads: runtime.GOMAXPROCS(0), Memory: resident(), Goroutines: runtime.NumGoroutine(), TCP: d.stack.States(),
		Refused: admin.Refused{Reset: d.gate.Count.Reset.Load(), Ignored: d.gate.Count.Ignored.Load()},
		Loops:   d.loops.Stats(),
		Table:   d.flows.Count.Map(),
		SSH:     d.statusSSH(),
		Time:    d.statusTime(),
	}
	if r, crashed := d.flows.Swept(); crashed {
		s.Sweep = &admin.Sweep{Found: r.Found, Asked: r.Asked, Ended: r.Ended, Gone: r.Gone, Silent: r.Silent,
			Skipped: r.Skipped, Left: r.Left, Took: r.Took, Over: r.Over}
	}
	for i, nic := range d.nics {
		counters := byName(d.endpoints[i].Counters())
		counters["acks_saved"], counters["acks_late"] = d.delays[i].Count.Saved.Load(), d.delays[i].Count.Late.Load()
		s.Interfaces = append(s.Interfaces, admin.Interface{
			Name: nic.Name(), Up: d.endpoints[i].Up(), MAC: nic.MAC().String(), MTU: nic.MTU(), Driver: nic.Driver(),
			Guard: nic.Guard(), Addresses: d.leases.addresses(d.conf().Interfaces[i]), Counters: counters, DHCP: d.leases.status(nic.Name()),
		})
	}
	for _, one := range d.supervisor.Services() {
		row := admin.Service{
			Name: one.Name(), Type: one.Type(), Policy: one.Settings().Service.Policy, Phase: one.Phase().String(),
			Listen: one.Addrs(), Counters: one.Counters(),
		}
		if p, ok := one.(*proxy.Proxy); ok {
			row.Backends = p.Backends()
		}
		s.Services = append(s.Services, row)
	}
	return s
}

// Flows implements admin.Source.
func (d *daemon) Flows() []admin.Flow {
	rows := []admin.Flow{}
	for _, f := range d.flows.List() {
		rows = append(rows, admin.Flow{
			ID: f.ID, State: f.State.String(), Policy: f.Policy, Local: f.Local, Remote: f.Remote, Held: f.Held, Life: f.Life,
		})
	}
	return rows
}

// Kill implements admin.Source.
func (d *daemon) Kill(id uint64, how string) error {
	err := d.supervisor.Kill(id, how)
	if err == nil {
		d.log.Info("connection killed by the operator", "conn", id, "how", how)
	}
	return err
}

// Probe implements admin.Source.
func (d *daemon) Probe(ctx context.Context, id uint64) (services.Probed, error) {
	return d.supervisor.Probe(ctx, id)
}

// Conns implements admin.Source.
func (d *daemon) Conns() []services.Row {
	rows := []services.Row{}
	for _, s := range d.supervisor.Services() {
		rows = append(rows, s.Conns()...)
	}
	return rows
}

// Ended implements admin.Source.
func (d *daemon) Ended() []services.Ended {
	rows := []services.Ended{}
	for _, s := range d.supervisor.Services() {
		rows = append(rows, s.Ended()...)
	}
	slices.SortStableFunc(rows, func(a, b services.Ended) int { return b.Opened.Add(b.Lasted).Compare(a.Opened.Add(a.Lasted)) })
	return rows
}

// byName is the counters by the names they have in JSON.
func byName(c netif.Counters) map[string]uint64 {
	var m map[string]uint64
	text, err := json.Marshal(c)
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		panic("appliance: internal error: counters are not numbers: " + err.Error())
	}
	return m
}

// resident is this process's memory in bytes, 0 if unknown: see proc_pid_statm(5).
func resident() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text))
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
