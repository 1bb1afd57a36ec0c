package kubeletapi

import (
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Target is what a path asks for, in the tenant's names.
type Target struct {
	Endpoint                       Endpoint
	Namespace, Pod, Container, UID string
}

// ParseTarget reads a request path. It takes the one way of writing each path that
// a kubelet's clients use and refuses all others: escapes, empty and dotted
// segments, anything that two parsers might read in two ways. Errors are Refusals.
func ParseTarget(u *url.URL) (Target, error) {
	if u.RawPath != "" || strings.Contains(u.EscapedPath(), "%") {
		return Target{}, Refuse(http.StatusBadRequest, "the path has escaped characters: no name in it may need them")
	}
	path, absolute := strings.CutPrefix(u.Path, "/")
	if !absolute {
		return Target{}, Refuse(http.StatusBadRequest, "the path is not absolute")
	}
	if whole, known := endpoints[Endpoint(path)]; known && whole.path == noPod {
		return Target{Endpoint: Endpoint(path)}, nil
	}
	segments := strings.Split(path, "/")
	t := Target{Endpoint: Endpoint(segments[0])}
	contract, known := endpoints[t.Endpoint]
	if !known || contract.path == noPod {
		return Target{}, Refuse(http.StatusNotFound,
			"vn-agent does not serve %q: of a kubelet's endpoints it has those that concern this cluster's own pods", u.Path)
	}
	if err := t.parsePod(contract.path, segments[1:]); err != nil {
		return Target{}, err
	}
	return t, nil
}

func (t *Target) parsePod(form podPath, segments []string) error {
	n := len(segments)
	checks := make([]part, 0, 4)
	switch {
	case form == podOnly && n == 2:
	case form == podOnly && n == 3:
		t.UID = segments[2]
		checks = append(checks, part{"uid", t.UID, isUID})
	case form != podOnly && n == 3:
		t.Container = segments[2]
	case form == podUIDOptional && n == 4:
		t.UID, t.Container = segments[2], segments[3]
		checks = append(checks, part{"uid", t.UID, isUID})
	default:
		return Refuse(http.StatusNotFound, "the path of /%s does not have the kubelet's form: %d parts follow", t.Endpoint, n)
	}
	t.Namespace, t.Pod = segments[0], segments[1]
	checks = append(checks, part{"namespace", t.Namespace, validation.IsDNS1123Label}, part{"pod", t.Pod, validation.IsDNS1123Subdomain})
	if form != podOnly {
		checks = append(checks, part{"container", t.Container, validation.IsDNS1123Label})
	}
	for _, check := range checks {
		if problems := check.valid(check.value); len(problems) > 0 {
			return Refuse(http.StatusBadRequest, "the path's %s %q is no such name: %s", check.what, check.value, strings.Join(problems, ", "))
		}
	}
	return nil
}

// part of a path, with what Kubernetes accepts there.
type part struct {
	what, value string
	valid       func(string) []string
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

// Upstream is the path of the same request in the super cluster's names. Of what
// the client wrote only the container is in it.
func (t Target) Upstream(super types.NamespacedName, superUID types.UID) string {
	segments := []string{"", string(t.Endpoint), super.Namespace, super.Name}
	if t.UID != "" {
		segments = append(segments, string(superUID))
	}
	if t.Container != "" {
		segments = append(segments, t.Container)
	}
	return strings.Join(segments, "/")
}
