package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/go-logr/logr"
	genericfilters "k8s.io/apiserver/pkg/endpoints/filters"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/bulkhead-dev/bulkhead/vn-agent/identity"
	"github.com/bulkhead-dev/bulkhead/vn-agent/kubeletapi"
)

// logTimeout ends what reads a log; the kubelet's own write timeout is the same.
const logTimeout = 4 * time.Hour

// Handler answers authenticated requests. It must be served behind TLS that asks
// for client certificates.
func (s *Server) Handler() http.Handler {
	unauthenticated := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.metrics.refused.WithLabelValues("unauthenticated").Inc()
		http.Error(w, "Unauthorized: a client certificate of a virtual cluster's control plane is needed", http.StatusUnauthorized)
	})
	return genericfilters.WithAuthentication(http.HandlerFunc(s.serve), s.Registry.Authenticator(), unauthenticated, nil, nil)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	info, _ := genericrequest.UserFrom(r.Context())
	user, ok := info.(*identity.User)
	if !ok {
		// No authenticator here makes other users.
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	// What a tenant has open ends with the tenant.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-user.Tenant.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	target, err := kubeletapi.ParseTarget(r.URL)
	log := s.Log.WithValues("tenant", user.Tenant.UID, "virtualCluster", user.Tenant.String(), "user", user.GetName(),
		"endpoint", target.Endpoint, "namespace", target.Namespace, "pod", target.Pod, "container", target.Container)
	r = r.WithContext(logr.NewContext(ctx, log))

	recorder := &recorder{ResponseWriter: w}
	started := time.Now()
	// Deferred, because net/http has handlers panic to break an answer off.
	defer func() {
		duration := time.Since(started)
		log.V(1).Info("request ended", "method", r.Method, "status", recorder.status, "duration", duration.String())
		if !user.Tenant.Ended() {
			s.metrics.observe(user.Tenant.UID, target.Endpoint, recorder.status, duration)
		}
	}()
	if err == nil {
		err = s.serveTarget(recorder, r, user, target)
	}
	if err != nil {
		s.answer(recorder, r, err)
	}
}

// serveTarget serves one request or returns why not; then nothing was written.
func (s *Server) serveTarget(w http.ResponseWriter, r *http.Request, user *identity.User, target kubeletapi.Target) error {
	if err := target.Endpoint.CheckMethod(r.Method); err != nil {
		return err
	}
	query, err := target.Endpoint.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	// A place is taken before anybody is asked anything on the request's behalf.
	state := s.stateOf(user.Tenant)
	done, err := state.admit(target.Endpoint.Stays(query))
	if err != nil {
		return err
	}
	defer done()
	if err := authorize(r.Context(), user, s.Node.Name, target.Endpoint, r); err != nil {
		return err
	}
	switch target.Endpoint {
	case kubeletapi.Health:
		return write(w, "text/plain; charset=utf-8", []byte("ok"))
	case kubeletapi.Summary:
		return s.serveSummary(w, r, user.Tenant, state, query)
	case kubeletapi.Resource:
		return s.serveResource(w, r, user.Tenant, state)
	default:
		return s.servePod(w, r, user.Tenant, target, query)
	}
}

// servePod serves the kubeletapi.Endpoints that are about one pod.
func (s *Server) servePod(w http.ResponseWriter, r *http.Request, tenant *identity.Tenant, target kubeletapi.Target, query url.Values) error {
	pod, found, err := s.Pods.Find(r.Context(), tenant.Tenant, target.Namespace, target.Pod)
	if err != nil {
		return err
	}
	if !found || target.UID != "" && target.UID != string(pod.UID) {
		return kubeletapi.Refuse(http.StatusNotFound, "pod %s/%s is not on node %q", target.Namespace, target.Pod, s.Node.Name)
	}
	to, err := s.kubeletURL(r.Context(), target.Upstream(pod.Super, pod.SuperUID), query)
	if err != nil {
		return kubeletFailure(s.Node.Name, err)
	}
	if target.Endpoint == kubeletapi.Logs {
		ctx, cancel := context.WithTimeout(r.Context(), logTimeout)
		defer cancel()
		r = r.WithContext(ctx)
	}
	s.forward(w, r, to, pod)
	return nil
}

// answer tells who asked why a request was not served, and the log what is not
// theirs to know.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, err error) {
	status, message := http.StatusInternalServerError, "vn-agent failed to serve this request; its log on node "+s.Node.Name+" says why"
	var refused *kubeletapi.Refusal
	var gateway *gatewayError
	var review *unanswered
	switch log := logr.FromContextOrDiscard(r.Context()); {
	case errors.As(err, &refused):
		status, message = refused.Status, refused.Message
		log.V(1).Info("request refused", "method", r.Method, "status", status, "reason", message)
		s.metrics.refused.WithLabelValues(http.StatusText(status)).Inc()
	case errors.As(err, &gateway):
		status, message = http.StatusBadGateway, gateway.message
		log.Error(gateway.err, "kubelet did not answer as it should")
	case errors.As(err, &review):
		status, message = http.StatusServiceUnavailable, "this cluster's apiserver did not answer an access review; try again"
		log.Error(review.err, "tenant's apiserver did not answer an access review")
	default:
		log.Error(err, "request failed")
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, message, status)
}
