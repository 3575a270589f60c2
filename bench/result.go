package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// result is what a run found. Values are by figure and peer, one per round.
type result struct {
	Date    time.Time `json:"date"`
	Took    string    `json:"took"`
	Machine machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"seconds"`
	// Rates are requests per second by experiment and peer.
	Rates   map[string]map[string]float64   `json:"rates,omitempty"`
	Figures []figure                        `json:"figures"`
	Values  map[string]map[string][]float64 `json:"values"`
	// Costs are by experiment and peer.
	Costs map[string]map[string]*costs `json:"costs"`
	// Stolen is the share of the machine's CPU time that the hypervisor gave to
	// others during the run.
	Stolen  float64                       `json:"stolen"`
	Medians map[string]map[string]float64 `json:"medians"`
	// Ratios are by figure and by what the appliance is compared with: the first, if
	// it was measured with several values of forwarding.
	Ratios map[string]map[string]ratio `json:"ratios"`
	// Carriers are all of them, in the order of the table.
	Carriers []carrierRatios `json:"carriers"`

	peers []peer
}

func newResult(peers []peer, haproxyVersion, applianceBinary string, o options) *result {
	return &result{
		Date: time.Now().Truncate(time.Second), Machine: thisMachine(haproxyVersion, applianceBinary), Rounds: o.rounds, Seconds: o.length.Seconds(),
		Values: make(map[string]map[string][]float64), Costs: make(map[string]map[string]*costs), peers: peers,
	}
}

// add takes the value of one round.
func (r *result) add(f figure, peerName string, value float64) {
	if r.Values[f.Key] == nil {
		r.Values[f.Key] = make(map[string][]float64)
		r.Figures = append(r.Figures, f)
	}
	r.Values[f.Key][peerName] = append(r.Values[f.Key][peerName], value)
}

// costs are what a peer used and what was taken from it, one value per round.
type costs struct {
	// Cores is what the peer's own process used. What the kernel does for it in
	// interrupts is not in it, or is in another's.
	Cores  []float64 `json:"process_cores"`
	Stolen []float64 `json:"stolen"`
}

// addCosts takes those of one round.
func (r *result) addCosts(experimentKey, peerName string, m measured) {
	if r.Costs[experimentKey] == nil {
		r.Costs[experimentKey] = make(map[string]*costs)
	}
	c := r.Costs[experimentKey][peerName]
	if c == nil {
		c = &costs{}
		r.Costs[experimentKey][peerName] = c
	}
	c.Cores, c.Stolen = append(c.Cores, m.cores), append(c.Stolen, m.stolen)
}

// setRate notes at which rate a peer is measured.
func (r *result) setRate(experimentKey, peerName string, rate float64) {
	if r.Rates == nil {
		r.Rates = make(map[string]map[string]float64)
	}
	if r.Rates[experimentKey] == nil {
		r.Rates[experimentKey] = make(map[string]float64)
	}
	r.Rates[experimentKey][peerName] = rate
}

// lessRouting takes off the memory with the kernel's share what kernel routing costs too,
// which leaves the cost of what is in the middle. Routing itself has no figure.
func (r *result) lessRouting() {
	byPeer := r.Values[wholeMemory]
	ends := median(byPeer[routing])
	for name := range byPeer {
		for i := range byPeer[name] {
			byPeer[name][i] -= ends
		}
	}
	delete(byPeer, routing)
	delete(r.Values[processMemory], routing)
}

// carrierRatios compare the appliance with one value of forwarding.
type carrierRatios struct {
	Peer    string                      `json:"peer"`
	Carrier string                      `json:"carrier"`
	Ratios  map[string]map[string]ratio `json:"ratios"` // by figure and by what it is compared with
}

// conclude works out the medians and ratios.
func (r *result) conclude() {
	r.Took = time.Since(r.Date).Round(time.Second).String()
	r.Medians, r.Carriers = make(map[string]map[string]float64), nil
	for key, byPeer := range r.Values {
		r.Medians[key] = make(map[string]float64)
		for name, values := range byPeer {
			r.Medians[key][name] = median(values)
		}
	}
	for _, p := range r.peers {
		if p.carrier != "" {
			r.Carriers = append(r.Carriers, carrierRatios{Peer: p.name, Carrier: p.carrier, Ratios: r.ratiosOf(p.name)})
		}
	}
	if len(r.Carriers) > 0 {
		r.Ratios = r.Carriers[0].Ratios
	}
}

// ratiosOf compares one appliance with all that is none.
func (r *result) ratiosOf(name string) map[string]map[string]ratio {
	ratios := make(map[string]map[string]ratio)
	for key, byPeer := range r.Values {
		ratios[key] = make(map[string]ratio)
		for _, p := range r.peers {
			if q, ok := ratioOf(byPeer[name], byPeer[p.name]); ok && p.carrier == "" {
				ratios[key][p.name] = q
			}
		}
	}
	return ratios
}

// save writes the result as JSON and returns where.
func (r *result) save(file string) (string, error) {
	if file == "" {
		file = filepath.Join("bench", "results", r.fileName())
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return "", fmt.Errorf("write the result: %w", err)
		}
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", fmt.Errorf("write the result: %w", err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		return "", fmt.Errorf("write the result: %w", err)
	}
	return file, nil
}

func (r *result) fileName() string {
	return fmt.Sprintf("%s-%s-%s.json", r.Date.Format(time.DateOnly), r.Machine.Kernel, r.Machine.Arch)
}
