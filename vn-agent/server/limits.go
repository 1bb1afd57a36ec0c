package server

import (
	"net/http"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/vn-agent/identity"
	"github.com/bulkhead-dev/bulkhead/vn-agent/kubeletapi"
	"github.com/bulkhead-dev/bulkhead/vn-agent/usage"
)

// Limits bound what one tenant may have open on this node at a time, so that none
// can use vn-agent or the kubelet up.
type Limits struct {
	// Streams are followed logs, exec, attach and port-forward sessions.
	Streams int
	// Requests are all others, such as logs to their end and usage figures.
	Requests int
}

// slots are a bounded number of places.
type slots chan struct{}

func (s slots) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slots) free() { <-s }

// state is what the server remembers of one tenant.
type state struct {
	streams, requests slots
	cpu               usage.Counter
}

// stateOf returns the tenant's state, which goes when the tenant does.
func (s *Server) stateOf(tenant *identity.Tenant) *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.states[tenant.UID]; known != nil {
		return known
	}
	fresh := &state{streams: make(slots, s.Limits.Streams), requests: make(slots, s.Limits.Requests)}
	s.states[tenant.UID] = fresh
	go func() {
		<-tenant.Done()
		s.forget(tenant.UID)
	}()
	return fresh
}

func (s *Server) forget(tenant types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.states, tenant)
	s.metrics.forget(tenant)
}

// admit takes a place for a request; done gives it back.
func (s *state) admit(stream bool) (done func(), err error) {
	places, what := s.requests, "requests"
	if stream {
		places, what = s.streams, "streams (followed logs, exec, attach, port-forward)"
	}
	if !places.take() {
		return nil, kubeletapi.Refuse(http.StatusTooManyRequests,
			"this cluster has %d %s open on this node, which is the limit: end some, then try again", cap(places), what)
	}
	return places.free, nil
}
