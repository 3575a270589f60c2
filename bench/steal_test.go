package main

import "testing"

func TestStolenTimeIsAShareOfAllCores(t *testing.T) {
	before, err1 := parseTicks("cpu  100 0 50 800 10 0 20 20 7 0\ncpu0 1 2 3\n")
	after, err2 := parseTicks("cpu  130 0 80 900 10 0 40 40 9 0\ncpu0 1 2 3\n")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if got, want := after.stolenSince(before), 0.1; got != want {
		t.Errorf("got %v, want %v: 20 of 200 ticks, guests not counted twice", got, want)
	}
	if got := before.stolenSince(before); got != 0 {
		t.Errorf("got %v of no time at all, want 0", got)
	}
}

func TestStolenTimeNeedsItsLine(t *testing.T) {
	for _, wrong := range []string{"", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 1 2 3\n", "cpu 1 2 3 4 5 6 7 x\n"} {
		if got, err := parseTicks(wrong); err == nil {
			t.Errorf("got %+v from %q, want an error", got, wrong)
		}
	}
}

func TestTheMeasurementWithLessStolenCounts(t *testing.T) {
	calm, robbed := measured{values: []float64{5}, stolen: 0.01}, measured{values: []float64{3}, stolen: 0.2}
	if got := calm.orBetter(robbed); got.stolen != calm.stolen {
		t.Errorf("got the one with %v stolen, want %v", got.stolen, calm.stolen)
	}
	if got := robbed.orBetter(calm); got.stolen != calm.stolen {
		t.Errorf("got the one with %v stolen, want %v", got.stolen, calm.stolen)
	}
}
