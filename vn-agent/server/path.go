package server

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// endpoint is one of the kubelet's endpoints that vn-agent serves; its value is
// the first part of the path. The whole list is in endpoints: what is not there
// is not passed on, whatever the kubelet may serve.
type endpoint string

const (
	endpointLogs        endpoint = "containerLogs"
	endpointExec        endpoint = "exec"
	endpointAttach      endpoint = "attach"
	endpointPortForward endpoint = "portForward"
	endpointRun         endpoint = "run"
	endpointSummary     endpoint = "stats/summary"
	endpointResource    endpoint = "metrics/resource"
	endpointHealth      endpoint = "healthz"
)

// contract is what a kubelet takes at an endpoint.
type contract struct {
	methods []string
	// parameters that the kubelet reads from the query; all others are refused, for
	// dropping one in silence would give another answer than the one asked for.
	parameters []string
	// path is how the rest of the path names a pod, if it does.
	path podPath
}

type podPath int

const (
	noPod          podPath = iota
	podOnly                // {namespace}/{pod}[/{uid}]
	podContainer           // {namespace}/{pod}/{container}
	podUIDOptional         // {namespace}/{pod}[/{uid}]/{container}
)

var (
	readOnly = []string{http.MethodGet}
	upgrade  = []string{http.MethodGet, http.MethodPost} // WebSocket starts with GET, SPDY with POST
	streams  = []string{"input", "output", "error", "tty"}
)

// endpoints is the kubelet's contract (pkg/kubelet/server, v1.36) as far as it can
// be served to one tenant among several. Missing on purpose, because they are
// about the whole node: /pods, /runningpods, /logs, /configz, /flagz, /statusz,
// /metrics, /metrics/cadvisor, /metrics/probes, /debug, /checkpoint, /spec.
var endpoints = map[endpoint]contract{
	endpointLogs: {readOnly, []string{"follow", "previous", "tailLines", "limitBytes", "sinceSeconds", "sinceTime", "timestamps", "stream"}, podContainer},

	endpointExec:        {upgrade, append([]string{"command"}, streams...), podUIDOptional},
	endpointAttach:      {upgrade, streams, podUIDOptional},
	endpointPortForward: {upgrade, []string{"port"}, podOnly},
	endpointRun:         {[]string{http.MethodPost}, []string{"cmd"}, podUIDOptional},

	endpointSummary:  {readOnly, []string{"only_cpu_and_memory"}, noPod},
	endpointResource: {readOnly, nil, noPod},
	endpointHealth:   {readOnly, nil, noPod},
}

// target is what a path asks for, in the tenant's names.
type target struct {
	endpoint                       endpoint
	namespace, pod, container, uid string
}

// refusal is an answer to a request that is not served, told to who asked.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string { return r.message }

func refuse(status int, format string, arguments ...any) error {
	return &refusal{status: status, message: fmt.Sprintf(format, arguments...)}
}

// statusOf is the HTTP status an error is answered with.
func statusOf(err error) int {
	var r *refusal
	if errors.As(err, &r) {
		return r.status
	}
	return http.StatusInternalServerError
}

// parseTarget reads a request path. It takes the one way of writing each path that
// a kubelet's clients use and refuses all others: escapes, empty and dotted
// segments, anything that two parsers might read in two ways.
func parseTarget(u *url.URL) (target, error) {
	if u.RawPath != "" || strings.Contains(u.EscapedPath(), "%") {
		return target{}, refuse(http.StatusBadRequest, "the path has escaped characters: no name in it may need them")
	}
	path, ok := strings.CutPrefix(u.Path, "/")
	if !ok {
		return target{}, refuse(http.StatusBadRequest, "the path is not absolute")
	}
	for _, name := range []endpoint{endpointSummary, endpointResource, endpointHealth} {
		if path == string(name) {
			return target{endpoint: name}, nil
		}
	}
	segments := strings.Split(path, "/")
	t := target{endpoint: endpoint(segments[0])}
	contract, known := endpoints[t.endpoint]
	if !known || contract.path == noPod {
		return target{}, refuse(http.StatusNotFound,
			"vn-agent does not serve %q: of a kubelet's endpoints it has those that concern pods of this cluster only", u.Path)
	}
	if err := t.parsePod(contract.path, segments[1:]); err != nil {
		return target{}, err
	}
	return t, nil
}

func (t *target) parsePod(form podPath, segments []string) error {
	n := len(segments)
	switch {
	case form == podOnly && (n == 2 || n == 3):
		if n == 3 {
			t.uid = segments[2]
		}
	case form == podContainer && n == 3, form == podUIDOptional && n == 3:
		t.container = segments[2]
	case form == podUIDOptional && n == 4:
		t.uid, t.container = segments[2], segments[3]
	default:
		return refuse(http.StatusNotFound, "the path of /%s does not have the kubelet's form: %d parts follow", t.endpoint, n)
	}
	t.namespace, t.pod = segments[0], segments[1]
	for _, part := range []struct {
		what, value string
		check       func(string) []string
	}{
		{"namespace", t.namespace, validation.IsDNS1123Label},
		{"pod", t.pod, validation.IsDNS1123Subdomain},
		{"container", t.container, optional(n > 2 && form != podOnly, validation.IsDNS1123Label)},
		{"uid", t.uid, optional(n == 4 || form == podOnly && n == 3, isUID)},
	} {
		if problems := part.check(part.value); len(problems) > 0 {
			return refuse(http.StatusBadRequest, "the path's %s %q is no such name: %s", part.what, part.value, strings.Join(problems, ", "))
		}
	}
	return nil
}

// optional checks a part that the path has, and nothing where it has none.
func optional(present bool, check func(string) []string) func(string) []string {
	if present {
		return check
	}
	return func(string) []string { return nil }
}

// maxUID is far above the 36 characters of the UIDs that apiservers give.
const maxUID = 128

func isUID(uid string) []string {
	valid := uid != "" && len(uid) <= maxUID
	for _, c := range uid {
		valid = valid && (c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
	}
	if !valid {
		return []string{"a UID has letters, digits and dashes"}
	}
	return nil
}

// upstream is the path of the same request in the super cluster's names.
func (t target) upstream(super types.NamespacedName, superUID types.UID) string {
	segments := []string{"", string(t.endpoint), super.Namespace, super.Name}
	if t.uid != "" {
		segments = append(segments, string(superUID))
	}
	if t.container != "" {
		segments = append(segments, t.container)
	}
	return strings.Join(segments, "/")
}

// parseQuery reads a query and refuses parameters that the endpoint does not have.
// Values pass as they are: the kubelet judges them.
func parseQuery(e endpoint, raw string) (url.Values, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the query cannot be read: %v", err)
	}
	for name := range values {
		if !slices.Contains(endpoints[e].parameters, name) {
			return nil, refuse(http.StatusBadRequest, "/%s has no parameter %q", e, name)
		}
	}
	return values, nil
}

// checkMethod refuses methods that the endpoint does not have.
func checkMethod(e endpoint, method string) error {
	if !slices.Contains(endpoints[e].methods, method) {
		return refuse(http.StatusMethodNotAllowed, "/%s takes %s, not %s", e, strings.Join(endpoints[e].methods, " and "), method)
	}
	return nil
}
