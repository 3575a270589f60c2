package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/lastack/lastack/internal/golden"
)

// sample is a result of two rounds.
func sample(peers ...peer) *result {
	r := newResult(peers, "2.6.12", "/nonexistent", options{rounds: 2, length: 2 * time.Second})
	r.Date = time.Date(2026, 11, 23, 9, 30, 0, 0, time.UTC)
	r.Machine = machine{CPU: "Test CPU", Cores: 2, Kernel: "6.18.44", Arch: "amd64", LoadAverage: 0.25, Commit: "abc1234"}
	values := map[string]map[string][]float64{
		"stream":   {routing: {14, 15}, haproxy: {6, 7}, appliance: {4.5, 5.5}, "appliance relay": {4, 5}, "appliance splice": {9, 11}},
		"requests": {routing: {97000, 98000}, haproxy: {60000, 63500}, appliance: {22000, 22500}, "appliance relay": {21000, 20000}, "appliance splice": {50000, 52000}},
		"p99":      {routing: {100, 120}, haproxy: {210, 190}, appliance: {300, 500}},
		"resident": {haproxy: {3.25, 3.35}, appliance: {16, 20}},
		"memory":   {routing: {5, 7}, haproxy: {20, 21}, appliance: {22, 26}},
	}
	for _, e := range experiments {
		for _, f := range e.figures {
			for _, p := range peers {
				for _, v := range values[f.Key][p.name] {
					r.add(f, p.name, v)
				}
			}
		}
	}
	r.lessRouting()
	r.conclude()
	r.Took = "4m0s"
	return r
}

func TestTableShowsMediansAndRatios(t *testing.T) {
	r := sample(routingPeer(), haproxyPeer("haproxy", "2.6.12", 5000), appliancePeer("appliance", "auto"))
	r.setRate("latency", appliance, 11125)
	r.Stolen = 0.07
	golden.Check(t, filepath.Join("testdata", "table.golden"), r.table())
}

func TestTableWithoutHAProxyHasNoColumnsOfIt(t *testing.T) {
	golden.Check(t, filepath.Join("testdata", "table without haproxy.golden"), sample(routingPeer(), appliancePeer("appliance", "auto")).table())
}

func TestTableOfSeveralCarriersFitsATerminal(t *testing.T) {
	r := sample(routingPeer(), haproxyPeer("haproxy", "2.6.12", 5000), appliancePeer("appliance", "auto"),
		appliancePeer("appliance", "relay"), appliancePeer("appliance", "splice"), appliancePeer("appliance", "direct"))
	text := r.table()
	golden.Check(t, filepath.Join("testdata", "table of carriers.golden"), text)
	figures, _, _ := strings.Cut(text, "Rounds:")
	for line := range strings.Lines(figures) {
		if n := utf8.RuneCountInString(line) - 1; n > 120 {
			t.Errorf("got a line of %d columns, want at most 120: %s", n, line)
		}
	}
}

func TestNumbersShowThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{0.123: "0.12", 4.4911: "4.49", 14.04: "14.0", 538.4: "538", 97412.3: "97412"} {
		if got := number(v); got != want {
			t.Errorf("got %s for %v, want %s", got, v, want)
		}
	}
}

func TestResultIsWrittenAsJSON(t *testing.T) {
	r := sample(routingPeer(), haproxyPeer("haproxy", "2.6.12", 5000), appliancePeer("appliance", "auto"))
	file, err := r.save(filepath.Join(t.TempDir(), "r.json"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got result
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Machine != r.Machine {
		t.Errorf("got machine %+v, want %+v", got.Machine, r.Machine)
	}
	if got, want := got.Medians["stream"][appliance], 5.0; got != want {
		t.Errorf("got median %v, want %v", got, want)
	}
	if got, want := got.Ratios["resident"][haproxy].Median, 18/3.3; math.Abs(got-want) > 1e-9 {
		t.Errorf("got ratio %v, want %v", got, want)
	}
	if c := got.Carriers; len(c) != 1 || c[0].Carrier != "auto" || c[0].Ratios["stream"][haproxy] != got.Ratios["stream"][haproxy] {
		t.Errorf("got carriers %+v, want auto with the ratios above", c)
	}
	if _, ok := got.Ratios["resident"][routing]; ok {
		t.Error("got a ratio of memory to kernel routing, want none: that is no process")
	}
}

func TestResultsAreFiledByDateAndMachine(t *testing.T) {
	t.Chdir(t.TempDir())
	got, err := sample(routingPeer(), appliancePeer("appliance", "auto")).save("")
	if want := filepath.Join("bench", "results", "2026-11-23-6.18.44-amd64.json"); err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
