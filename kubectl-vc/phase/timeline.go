package phase

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// Timeline notes when each condition was seen to come true. Conditions carry whole
// seconds only; what a watcher sees arrive is exact to the millisecond.
type Timeline struct {
	start   time.Time
	reached map[string]time.Time
}

// Phase is one condition that came true.
type Phase struct {
	// Name is the condition's type.
	Name string
	// After is the time from the start until it was true.
	After time.Duration
	// Share is the part of it since the phase before came true.
	Share time.Duration
}

// NewTimeline starts to count at start.
func NewTimeline(start time.Time) *Timeline {
	return &Timeline{start: start, reached: map[string]time.Time{}}
}

// Observe takes in what a virtual cluster looks like at the moment now and returns
// the conditions that are newly true, in order. One that is no longer true is taken
// back.
func (t *Timeline) Observe(vc *v1alpha1.VirtualCluster, now time.Time) []string {
	var fresh []string
	for _, name := range observed {
		_, known := t.reached[name]
		switch holds := meta.IsStatusConditionTrue(vc.Status.Conditions, name); {
		case holds && !known:
			t.reached[name] = now
			fresh = append(fresh, name)
		case !holds && known:
			delete(t.reached, name)
		}
	}
	return fresh
}

// observed is Order with Synced, which may come true on either side of Ready.
var observed = slices.Insert(slices.Clone(Order), len(Order)-1, v1alpha1.ConditionSynced)

// Phases lists what came true, in the order of time. The shares add up to the last
// one's After.
func (t *Timeline) Phases() []Phase {
	var phases []Phase
	for _, name := range observed {
		if at, ok := t.reached[name]; ok {
			phases = append(phases, Phase{Name: name, After: at.Sub(t.start)})
		}
	}
	slices.SortStableFunc(phases, func(a, b Phase) int { return cmp.Compare(a.After, b.After) })
	var before time.Duration
	for i := range phases {
		phases[i].Share = phases[i].After - before
		before = phases[i].After
	}
	return phases
}

// After is the time from the start until the condition came true; zero if it has not.
func (t *Timeline) After(condition string) time.Duration {
	if at, ok := t.reached[condition]; ok {
		return at.Sub(t.start)
	}
	return 0
}

// WriteTable writes a line for each phase with the time it was reached and its share.
func (t *Timeline) WriteTable(w io.Writer) error {
	phases := t.Phases()
	if len(phases) == 0 {
		return nil
	}
	total := phases[len(phases)-1].After
	width := 0
	for _, p := range phases {
		width = max(width, len(p.Name))
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%-*s  %10s  %10s\n", width, "PHASE", "REACHED", "SHARE")
	for _, p := range phases {
		percent := 0.0
		if total > 0 {
			percent = 100 * float64(p.Share) / float64(total)
		}
		fmt.Fprintf(&table, "%-*s  %10s  %10s  %3.0f %%\n", width, p.Name, Seconds(p.After), Seconds(p.Share), percent)
	}
	if _, err := io.WriteString(w, table.String()); err != nil {
		return fmt.Errorf("writing the table of phases: %w", err)
	}
	return nil
}

// Seconds writes a duration in seconds with milliseconds.
func Seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
