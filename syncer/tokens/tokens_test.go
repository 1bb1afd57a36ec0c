package tokens

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDue(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		life time.Duration
		want time.Duration // after it was issued
	}{
		"an hour":     {time.Hour, 48 * time.Minute},
		"ten minutes": {10 * time.Minute, 5 * time.Minute},
		"a year":      {365 * 24 * time.Hour, 24 * time.Hour},
		"too short":   {2 * time.Minute, 96 * time.Second},
	} {
		one := issued{Expires: now.Add(tc.life), Seconds: int64(tc.life / time.Second)}
		if diff := cmp.Diff(tc.want, one.due().Sub(now)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
