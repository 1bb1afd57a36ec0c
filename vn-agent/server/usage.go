package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/bulkhead-dev/bulkhead/vn-agent/identity"
	"github.com/bulkhead-dev/bulkhead/vn-agent/kubeletapi"
	"github.com/bulkhead-dev/bulkhead/vn-agent/usage"
)

const (
	// usageTimeout bounds one reading of the kubelet's figures; metrics-server
	// itself waits 10 s.
	usageTimeout = 10 * time.Second
	// maxUsage is far above what a kubelet with its 110 pods says (some MB at most).
	maxUsage = 32 << 20
)

var errTooLarge = errors.New("its answer is larger than any kubelet's should be")

// serveSummary answers /stats/summary.
func (s *Server) serveSummary(w http.ResponseWriter, r *http.Request, tenant *identity.Tenant, state *state, query url.Values) error {
	own, body, err := s.readUsage(r.Context(), tenant, kubeletapi.Summary, query, "application/json")
	if err != nil {
		return err
	}
	var summary statsv1alpha1.Summary
	if err := json.Unmarshal(body, &summary); err != nil {
		return kubeletFailure(s.Node.Name, fmt.Errorf("decoding its summary: %w", err))
	}
	answer, err := json.Marshal(usage.Summary(&summary, own, &state.cpu))
	if err != nil {
		return fmt.Errorf("encoding a summary: %w", err)
	}
	return write(w, "application/json", answer)
}

// serveResource answers /metrics/resource.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, tenant *identity.Tenant, state *state) error {
	own, body, err := s.readUsage(r.Context(), tenant, kubeletapi.Resource, nil, usage.ResourceFormat)
	if err != nil {
		return err
	}
	var answer bytes.Buffer
	if err := usage.Resource(&answer, bytes.NewReader(body), own, &state.cpu); err != nil {
		return kubeletFailure(s.Node.Name, err)
	}
	return write(w, usage.ResourceFormat, answer.Bytes())
}

// readUsage returns the tenant's pods and the kubelet's figures of all pods. The
// pods are read last, so that one the kubelet already knows is not missed.
func (s *Server) readUsage(ctx context.Context, tenant *identity.Tenant, e kubeletapi.Endpoint, query url.Values, accept string) (usage.Pods, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, usageTimeout)
	defer cancel()
	body, err := s.get(ctx, "/"+string(e), query, accept)
	if err != nil {
		return usage.Pods{}, nil, kubeletFailure(s.Node.Name, err)
	}
	list, err := s.Pods.List(ctx, tenant.Tenant)
	if err != nil {
		return usage.Pods{}, nil, err
	}
	return usage.NewPods(list), body, nil
}

func (s *Server) get(ctx context.Context, path string, query url.Values, accept string) ([]byte, error) {
	u, err := s.kubeletURL(ctx, path, query)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("making a request to the kubelet: %w", err)
	}
	request.Header.Set("Accept", accept)
	request.Header.Set("User-Agent", "vn-agent")
	response, err := s.Kubelet.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }() // what matters was read, or was not
	switch code := response.StatusCode; {
	case code >= 300 && code < 400:
		return nil, errRedirect
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return nil, errRefused
	case code != http.StatusOK:
		return nil, fmt.Errorf("it answered %s", response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxUsage+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxUsage {
		return nil, errTooLarge
	}
	return body, nil
}

func write(w http.ResponseWriter, contentType string, body []byte) error {
	w.Header().Set("Content-Type", contentType)
	_, err := w.Write(body)
	return err
}
