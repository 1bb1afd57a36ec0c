package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestQuantileIsTheNearestRank(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100-i) * time.Millisecond
	}
	for _, test := range []struct {
		name  string
		list  []time.Duration
		share float64
		want  time.Duration
	}{
		{"of nothing", nil, 0.5, 0},
		{"of one", hundred[:1], 0.01, 100 * time.Millisecond},
		{"the middle", hundred, 0.5, 50 * time.Millisecond},
		{"all but one", hundred, 0.99, 99 * time.Millisecond},
		{"the most", hundred, 1, 100 * time.Millisecond},
		{"the least", hundred, 0, time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := quantile(test.list, test.share); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
	if hundred[0] != 100*time.Millisecond {
		t.Error("the list itself was sorted")
	}
}

func TestThroughputIsFromTheFirstPostingToTheLastReady(t *testing.T) {
	begin := time.Unix(0, 0)
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	lives := []*life{{posted: at(3), ready: at(4)}, {posted: at(0), ready: at(10)}, {posted: at(1), ready: at(2)}}
	if diff := cmp.Diff(0.3, throughput(lives)); diff != "" {
		t.Error(diff)
	}
}
