package main

import (
	"fmt"
	"math"
	"strings"
	"text/tabwriter"
)

// table is the result for reading. It ends with what it was measured on.
func (r *result) table() string {
	if len(r.Carriers) > 1 {
		text := r.figureTable()
		for _, other := range r.others() {
			text += "\n" + r.ratioTable(other)
		}
		return text + r.legend()
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	cells := []string{"", ""}
	for _, p := range r.peers {
		cells = append(cells, p.title)
	}
	for _, p := range r.others() {
		cells = append(cells, r.Carriers[0].Peer+" / "+shortTitle(p))
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
	for _, f := range r.Figures {
		fmt.Fprintln(w, strings.Join(r.row(f), "\t"))
	}
	w.Flush() // a strings.Builder takes everything
	return text.String() + r.legend()
}

// figureTable shows what each peer did, when several are appliances: with the
// ratios beside it no line would fit.
func (r *result) figureTable() string {
	heads := []string{""}
	for _, p := range r.peers {
		heads = append(heads, shortTitle(p))
	}
	return r.lines(heads, func(f figure) (cells []string) {
		for _, p := range r.peers {
			cells = append(cells, valueCell(r.Values[f.Key][p.name]))
		}
		return cells
	})
}

// ratioTable shows their ratios to another peer.
func (r *result) ratioTable(other peer) string {
	heads := []string{"to " + shortTitle(other)}
	for _, c := range r.Carriers {
		heads = append(heads, c.Carrier)
	}
	return r.lines(heads, func(f figure) (cells []string) {
		for _, c := range r.Carriers {
			cells = append(cells, ratioCell(c.Ratios[f.Key], other.name))
		}
		return cells
	})
}

// lines are a table with a line for each figure.
func (r *result) lines(heads []string, cells func(figure) []string) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(heads, "\t"))
	for _, f := range r.Figures {
		title := f.Title + ", " + f.Unit
		if f.Less {
			title += " (-)"
		}
		fmt.Fprintln(w, strings.Join(append([]string{title}, cells(f)...), "\t"))
	}
	w.Flush() // a strings.Builder takes everything
	return text.String()
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
	switch {
	case p.name == haproxy:
		return "HAProxy"
	case p.carrier != "":
		return p.carrier
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
	note := ""
	if len(r.Carriers) > 1 {
		note = "The appliance's columns are called after its `forwarding`; (-): less is better.\n"
	}
	text := fmt.Sprintf("\nRounds: %d of %g s. Median ± half of the range; ratio of the medians (lowest-highest of a round).\n", r.Rounds, r.Seconds) + note
	if rates := r.Rates["half"]; rates != nil {
		var each []string
		for _, p := range r.peers {
			each = append(each, fmt.Sprintf("%.0f for %s", rates[p.name], p.title))
		}
		text += "Half load is half of the requests/s above: " + strings.Join(each, ", ") + ".\n"
	}
	if rates := r.Rates["latency"]; rates != nil {
		text += fmt.Sprintf("The same rate is %.0f requests/s.\n", rates[r.Carriers[0].Peer])
	}
	if r.Stolen > tooMuchStolen {
		text += fmt.Sprintf("The hypervisor gave %.0f%% of this machine's CPU time to others meanwhile: read the ratios as a rough size.\n", 100*r.Stolen)
	}
	return text + fmt.Sprintf("%s, %s, %d cores, Linux %s %s, load average %.2f before, commit %s; took %s.\n",
		r.Date.Format("2006-01-02 15:04"), m.CPU, m.Cores, m.Kernel, m.Arch, m.LoadAverage, m.Commit, r.Took)
}
