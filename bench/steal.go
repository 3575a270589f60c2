package main

import (
	"errors"
	"strconv"
	"strings"
)

// A virtual machine shares its cores with others, which no list of its
// processes shows: the hypervisor counts what it took as "steal", see
// proc_stat(5). A measurement with more than tooMuchStolen of that is repeated,
// and the one with less counts; repeatsMost bounds what that adds to a run.
const (
	tooMuchStolen = 0.03
	repeatsMost   = 30
)

// ticks are the CPU times of the machine, all cores together.
type ticks struct{ stolen, all int64 }

func machineTicks() (ticks, error) { return parseTicks(contents("/proc/stat")) }

// parseTicks reads the first line: user, nice, system, idle, iowait, irq,
// softirq, steal. What follows, time of guests, is in user time already.
func parseTicks(stat string) (ticks, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return ticks{}, errors.New("read /proc/stat: its first line is not that of all CPUs")
	}
	var t ticks
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return ticks{}, err
		}
		t.all += n
		if i == 7 {
			t.stolen = n
		}
	}
	return t, nil
}

// stolenSince is the share of all CPU time that was stolen since before.
func (t ticks) stolenSince(before ticks) float64 {
	if t.all <= before.all {
		return 0
	}
	return float64(t.stolen-before.stolen) / float64(t.all-before.all)
}
