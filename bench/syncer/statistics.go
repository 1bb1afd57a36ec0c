package main

import (
	"math"
	"slices"
	"time"
)

// quantiles of a distribution, in milliseconds.
type quantiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// quantile by nearest rank: the least of the list that a share of it does not exceed;
// 0 of an empty list.
func quantile(list []time.Duration, share float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	rank := int(math.Ceil(share * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func quantilesOf(list []time.Duration) quantiles {
	return quantiles{
		P50: milliseconds(quantile(list, 0.50)), P95: milliseconds(quantile(list, 0.95)),
		P99: milliseconds(quantile(list, 0.99)), Max: milliseconds(quantile(list, 1)),
	}
}

// mean of a list; 0 of an empty one.
func mean(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	var sum time.Duration
	for _, d := range list {
		sum += d
	}
	return sum / time.Duration(len(list))
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// rounded to three digits after the point, as far as figures mean anything.
func rounded(value float64) float64 { return math.Round(value*1000) / 1000 }

func megabytes(bytes int64) float64 { return rounded(float64(bytes) / 1e6) }
