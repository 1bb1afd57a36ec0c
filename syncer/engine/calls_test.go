package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// server answers calls when it is told to, as an apiserver that hangs does.
type server chan struct{}

func (s server) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-s:
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("{}"))}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// An apiserver that hangs holds one worker, and not all that its tenant may have.
func TestCallsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, news := make(server), 0
		a := &answers{changed: func() { news++ }}
		results := make(chan error, 100)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		call := func() {
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://tenant.example", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				response, err := (&calls{next: s, leads: func() error { return nil }, answers: a}).RoundTrip(request)
				if err == nil {
					err = response.Body.Close()
				}
				results <- err
			}()
		}
		expect := func(late, answered int, hangs bool, told int) {
			t.Helper()
			synctest.Wait()
			for range late {
				if err := <-results; !errors.Is(err, errLate) {
					t.Errorf("a call that hangs ended with %v", err)
				}
			}
			for range answered {
				if err := <-results; err != nil {
					t.Errorf("a call that is answered ended with %v", err)
				}
			}
			if len(results) > 0 || a.hanging() != hangs || news != told {
				t.Errorf("%d calls more have ended, hanging %t, told %d times", len(results), a.hanging(), news)
			}
		}
		for range 8 {
			call()
		}
		time.Sleep(lateAfter - 1) //nolint:forbidigo // in fake time
		expect(0, 0, false, 0)
		time.Sleep(time.Nanosecond) //nolint:forbidigo // in fake time
		expect(7, 0, true, 1)
		// The one that is left has all the time that a call has.
		call()
		time.Sleep(lateAfter) //nolint:forbidigo // in fake time
		expect(1, 0, true, 1)
		s <- struct{}{}
		expect(0, 1, false, 2)
		// It is gone altogether, which the probe has found.
		call()
		time.Sleep(lateAfter) //nolint:forbidigo // in fake time
		expect(0, 0, true, 3)
		a.abandon()
		expect(1, 0, true, 3)
		// A call that another than the apiserver ends is no answer.
		call()
		cancel()
		synctest.Wait()
		if err := <-results; !errors.Is(err, context.Canceled) || !a.hanging() {
			t.Errorf("a call that its caller ends: %v, hanging %t", err, a.hanging())
		}
	})
}

// A replica that does not lead any more reads, and writes nothing.
func TestCallsOfWhoDoesNotLead(t *testing.T) {
	stepsDown := errors.New("does not lead")
	s := make(server, 1)
	c := &calls{next: s, leads: func() error { return stepsDown }}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		s <- struct{}{}
		request, err := http.NewRequestWithContext(t.Context(), method, "https://super.example", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.RoundTrip(request)
		if err == nil {
			_ = response.Body.Close()
		}
		if want := method != http.MethodGet; errors.Is(err, stepsDown) != want {
			t.Errorf("%s: %v", method, err)
		}
		if len(s) > 0 {
			<-s
		}
	}
}
