package main

import (
	"math"
	"testing"
	"time"
)

func TestMedianIsTheMiddle(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 100}, 3.5},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("got %v for the median of %v, want %v", got, c.values, c.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("got %v for the median of nothing, want NaN", got)
	}
}

func TestMedianLeavesItsArgumentAsItIs(t *testing.T) {
	rounds := []float64{3, 1, 2}
	median(rounds)
	if rounds[0] != 3 || rounds[1] != 1 || rounds[2] != 2 {
		t.Errorf("got %v, want the rounds in their order: they are compared one by one", rounds)
	}
}

func TestSpreadIsHalfOfTheRange(t *testing.T) {
	if got, want := spread([]float64{90, 100, 120}), 0.15; math.Abs(got-want) > 1e-9 {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := spread([]float64{7}); got != 0 {
		t.Errorf("got %v for a single round, want 0", got)
	}
}

func TestPercentileIsTheNearestRank(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, c := range []struct {
		sorted []time.Duration
		p      float64
		want   time.Duration
	}{
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 99.1, 100},
		{hundred, 100, 100},
		{hundred, 0, 1},
		{hundred[:1], 99, 1},
		{hundred[:3], 50, 2},
		{nil, 99, 0},
	} {
		if got := percentile(c.sorted, c.p); got != c.want {
			t.Errorf("got %v for p%v of %d values, want %v", got, c.p, len(c.sorted), c.want)
		}
	}
}

func TestOutcomeSortsTheLatencies(t *testing.T) {
	got := outcomeOf([]time.Duration{30, 10, 20}, time.Second)
	want := outcome{Count: 3, Length: time.Second, P50: 20, P99: 30, Max: 30}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestRatioComparesMediansAndEachRound(t *testing.T) {
	got, ok := ratioOf([]float64{10, 30, 20}, []float64{20, 40, 80})
	want := ratio{Median: 0.5, Low: 0.25, High: 0.75}
	if !ok || got != want {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
}

func TestRatioOfNothingIsNone(t *testing.T) {
	if got, ok := ratioOf([]float64{1}, nil); ok {
		t.Errorf("got %+v, want none without a value to compare with", got)
	}
	if got, ok := ratioOf([]float64{1}, []float64{0}); ok {
		t.Errorf("got %+v, want none against 0", got)
	}
}

func TestHalfLoadIsEachOnesOwn(t *testing.T) {
	requests := map[string][]float64{routing: {9000}, haproxy: {2000, 3000, 4000}}
	if got := halfOfOwn(requests, haproxy); got != 1500 {
		t.Errorf("got %v, want 1500", got)
	}
}

func TestSameRateIsThatOfTheSlowerProxy(t *testing.T) {
	for _, c := range []struct {
		name     string
		requests map[string][]float64
		want     float64
	}{
		{"the appliance is slower", map[string][]float64{routing: {9000}, haproxy: {4000}, appliance: {3000}}, 1500},
		{"HAProxy is slower", map[string][]float64{routing: {9000}, haproxy: {2000, 4000}, appliance: {8000}}, 1500},
		{"there is no HAProxy", map[string][]float64{routing: {1}, appliance: {8000}}, 4000},
	} {
		if got := halfOfSlower(c.requests, appliance); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
