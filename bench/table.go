package main

import (
	"fmt"
	"math"
	"strings"
	"text/tabwriter"
)

// table is the result for reading. It ends with what it was measured on.
func (r *result) table() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	cells := []string{"", ""}
	for _, p := range r.peers {
		cells = append(cells, p.title)
	}
	for _, p := range r.others() {
		cells = append(cells, "appliance / "+shortTitle(p))
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
	for _, f := range r.Figures {
		fmt.Fprintln(w, strings.Join(r.row(f), "\t"))
	}
	w.Flush() // a strings.Builder takes everything
	return text.String() + r.legend()
}

// others are the peers that the appliance is compared with, proxies first.
func (r *result) others() []peer {
	var others []peer
	for _, p := range r.peers {
		switch p.name {
		case haproxy:
			others = append([]peer{p}, others...)
		case routing:
			others = append(others, p)
		}
	}
	return others
}

func shortTitle(p peer) string {
	if p.name == haproxy {
		return "HAProxy"
	}
	return p.name
}

func (r *result) row(f figure) []string {
	unit := f.Unit
	if f.Less {
		unit += " (less is better)"
	}
	cells := []string{f.Title, unit}
	for _, p := range r.peers {
		cells = append(cells, valueCell(r.Values[f.Key][p.name]))
	}
	for _, p := range r.others() {
		cells = append(cells, ratioCell(r.Ratios[f.Key], p.name))
	}
	return cells
}

func valueCell(values []float64) string {
	if len(values) == 0 {
		return "-"
	}
	return fmt.Sprintf("%s ±%.0f%%", number(median(values)), 100*spread(values))
}

func ratioCell(ratios map[string]ratio, name string) string {
	q, ok := ratios[name]
	if !ok {
		return "-"
	}
	return fmt.Sprintf("%.2f (%.2f-%.2f)", q.Median, q.Low, q.High)
}

// number shows three or more significant digits.
func number(v float64) string {
	digits := 2
	if a := math.Abs(v); a >= 1 {
		digits = max(0, 2-int(math.Log10(a)))
	}
	return fmt.Sprintf("%.*f", digits, v)
}

func (r *result) legend() string {
	m := r.Machine
	text := fmt.Sprintf("\nRounds: %d of %g s. Median ± half of the range; ratio of the medians (lowest-highest of a round).\n", r.Rounds, r.Seconds)
	if rates := r.Rates["half"]; rates != nil {
		var each []string
		for _, p := range r.peers {
			each = append(each, fmt.Sprintf("%.0f for %s", rates[p.name], p.title))
		}
		text += "Half load is half of the requests/s above: " + strings.Join(each, ", ") + ".\n"
	}
	if rates := r.Rates["latency"]; rates != nil {
		text += fmt.Sprintf("The same rate is %.0f requests/s.\n", rates[appliance])
	}
	if r.Stolen > tooMuchStolen {
		text += fmt.Sprintf("The hypervisor gave %.0f%% of this machine's CPU time to others meanwhile: read the ratios as a rough size.\n", 100*r.Stolen)
	}
	return text + fmt.Sprintf("%s, %s, %d cores, Linux %s %s, load average %.2f before, commit %s; took %s.\n",
		r.Date.Format("2006-01-02 15:04"), m.CPU, m.Cores, m.Kernel, m.Arch, m.LoadAverage, m.Commit, r.Took)
}
