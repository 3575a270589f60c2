package main

import (
	"math"
	"slices"
	"time"
)

// median is the middle value, or the mean of the two in the middle; NaN of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	if len(v)%2 == 1 {
		return v[mid]
	}
	return (v[mid-1] + v[mid]) / 2
}

// spread is half the distance of the extremes, as a share of the median.
func spread(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	m := median(values)
	if m == 0 {
		return math.NaN()
	}
	return (slices.Max(values) - slices.Min(values)) / 2 / math.Abs(m)
}

// percentile is the smallest value that at least p percent of the sorted
// values do not exceed (nearest rank); 0 of none.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func sortDurations(d []time.Duration) { slices.Sort(d) }

// ratio compares two peers by their medians, and by the extremes of the rounds:
// those of one round were measured right after each other.
type ratio struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// ratioOf returns false if one of them has no value to compare.
func ratioOf(a, b []float64) (ratio, bool) {
	n := min(len(a), len(b))
	if n == 0 || median(b) == 0 {
		return ratio{}, false
	}
	r := ratio{Median: median(a) / median(b), Low: math.Inf(1), High: math.Inf(-1)}
	for i := range n {
		q := a[i] / b[i]
		r.Low, r.High = min(r.Low, q), max(r.High, q)
	}
	return r, true
}
