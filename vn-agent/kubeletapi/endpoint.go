// Package kubeletapi says which part of the kubelet's HTTPS API tenants are served,
// and reads their requests: an allow-list of endpoints, methods, query parameters
// and forms of paths. The contract is the kubelet's own (k8s.io/kubernetes
// pkg/kubelet/server, v1.36), which has no other specification.
//
// To serve another endpoint, add it to endpoints here and say in package server
// what answers it.
package kubeletapi

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Endpoint is one of the kubelet's endpoints; its value is how the path begins.
type Endpoint string

// The endpoints that can be served to one tenant among several. Missing on
// purpose, because they are about the whole node: /pods, /runningpods, /logs,
// /configz, /flagz, /statusz, /metrics, /metrics/cadvisor, /metrics/probes,
// /debug, /checkpoint.
const (
	Logs        Endpoint = "containerLogs"
	Exec        Endpoint = "exec"
	Attach      Endpoint = "attach"
	PortForward Endpoint = "portForward"
	Run         Endpoint = "run"
	Summary     Endpoint = "stats/summary"
	Resource    Endpoint = "metrics/resource"
	Health      Endpoint = "healthz"
)

// contract is what a kubelet takes at an endpoint.
type contract struct {
	methods []string
	// parameters that the kubelet reads from the query.
	parameters []string
	// path is how the rest of the path names a pod, if it does.
	path podPath
	// subresources of the node that a kubelet accepts access to, the finer first
	// (KEP-2862, fine-grained kubelet API authorization).
	subresources []string
}

type podPath int

const (
	noPod          podPath = iota
	podOnly                // {namespace}/{pod}[/{uid}]
	podContainer           // {namespace}/{pod}/{container}
	podUIDOptional         // {namespace}/{pod}[/{uid}]/{container}
)

var (
	get       = []string{http.MethodGet}
	getOrPost = []string{http.MethodGet, http.MethodPost} // WebSocket starts with GET, SPDY with POST
	streams   = []string{"input", "output", "error", "tty"}
	proxy     = []string{"proxy"}
)

var endpoints = map[Endpoint]contract{
	Logs: {get, []string{"follow", "previous", "tailLines", "limitBytes", "sinceSeconds", "sinceTime", "timestamps", "stream"}, podContainer, proxy},

	Exec:        {getOrPost, append([]string{"command"}, streams...), podUIDOptional, proxy},
	Attach:      {getOrPost, streams, podUIDOptional, proxy},
	PortForward: {getOrPost, []string{"port"}, podOnly, proxy},
	Run:         {[]string{http.MethodPost}, []string{"cmd"}, podUIDOptional, proxy},

	Summary:  {get, []string{"only_cpu_and_memory"}, noPod, []string{"stats"}},
	Resource: {get, nil, noPod, []string{"metrics"}},
	Health:   {get, nil, noPod, []string{"healthz", "proxy"}},
}

// Known tells whether the endpoint is served.
func (e Endpoint) Known() bool { _, known := endpoints[e]; return known }

// Subresources of the node; access to any one of them opens the endpoint.
func (e Endpoint) Subresources() []string { return endpoints[e].subresources }

// Verb is the API verb a kubelet takes a request's method for.
func Verb(method string) string {
	return map[string]string{http.MethodGet: "get", http.MethodPost: "create"}[method]
}

// CheckMethod refuses methods that the endpoint does not have.
func (e Endpoint) CheckMethod(method string) error {
	if !slices.Contains(endpoints[e].methods, method) {
		return Refuse(http.StatusMethodNotAllowed, "/%s takes %s, not %q", e, strings.Join(endpoints[e].methods, " and "), method)
	}
	return nil
}

// ParseQuery reads a query. It refuses parameters that the endpoint does not have,
// for leaving one out in silence would answer another question than the one asked.
// Values pass as they are: the kubelet judges them.
func (e Endpoint) ParseQuery(raw string) (url.Values, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, Refuse(http.StatusBadRequest, "the query cannot be read: %v", err)
	}
	for name := range values {
		if !slices.Contains(endpoints[e].parameters, name) {
			return nil, Refuse(http.StatusBadRequest, "/%s has no parameter %q", e, name)
		}
	}
	return values, nil
}

// Stays tells whether a request stays open until somebody ends it.
func (e Endpoint) Stays(query url.Values) bool {
	switch e {
	case Exec, Attach, PortForward:
		return true
	case Logs:
		// As the apiserver's conversion reads a flag: there, and not false.
		follow := query["follow"]
		return len(follow) > 0 && follow[0] != "0" && !strings.EqualFold(follow[0], "false")
	default:
		return false
	}
}
