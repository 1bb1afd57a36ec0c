//go:build churn

package churn

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

// settings are how much churn there is.
type settings struct {
	// Tenants is how many control planes take part, beside the super cluster's.
	Tenants int
	// Duration is how long there is churn.
	Duration time.Duration
	// Pause is how long each tenant waits on average between two operations.
	Pause time.Duration
	// Faults is the time between two faults.
	Faults time.Duration
	// Seed of all that is random.
	Seed uint64
	// SyncerArgs are added to the syncer's command line.
	SyncerArgs string
	// Dir keeps the logs of all processes; empty for one that is removed.
	Dir string
}

// readSettings reads the environment: CHURN_TENANTS, CHURN_DURATION and so on.
func readSettings(t *testing.T) settings {
	t.Helper()
	s := settings{Tenants: 3, Duration: 12 * time.Second, Seed: uint64(time.Now().UnixNano()), SyncerArgs: os.Getenv("CHURN_SYNCER_ARGS"), Dir: os.Getenv("CHURN_DIR")}
	read := func(name string, parse func(text string) error) {
		if text := os.Getenv(name); text != "" {
			if err := parse(text); err != nil {
				t.Fatalf("%s=%s: %v", name, text, err)
			}
		}
	}
	duration := func(into *time.Duration) func(string) error {
		return func(text string) (err error) {
			*into, err = time.ParseDuration(text)
			return err
		}
	}
	read("CHURN_TENANTS", func(text string) (err error) {
		s.Tenants, err = strconv.Atoi(text)
		return err
	})
	read("CHURN_SEED", func(text string) (err error) {
		s.Seed, err = strconv.ParseUint(text, 10, 64)
		return err
	})
	read("CHURN_DURATION", duration(&s.Duration))
	// So much that two cores bear it: the apiservers take most of them.
	s.Pause, s.Faults = max(60*time.Millisecond, time.Duration(s.Tenants)*25*time.Millisecond), 1200*time.Millisecond
	if s.Duration > time.Minute {
		s.Faults = 8 * time.Second
	}
	read("CHURN_PAUSE", duration(&s.Pause))
	read("CHURN_FAULTS", duration(&s.Faults))
	if s.Tenants < 1 {
		t.Fatalf("CHURN_TENANTS must be at least 1")
	}
	return s
}

func (s settings) String() string {
	return fmt.Sprintf("CHURN_SEED=%d CHURN_TENANTS=%d CHURN_DURATION=%s CHURN_PAUSE=%s CHURN_FAULTS=%s", s.Seed, s.Tenants, s.Duration, s.Pause, s.Faults)
}
