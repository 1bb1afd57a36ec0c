package image

import (
	"errors"
	"regexp"
	"strings"
)

// what a request asks for.
type endpoint int

const (
	endpointVersion  endpoint = iota // is there a registry?
	endpointManifest                 // a manifest by tag or digest
	endpointBlob                     // a blob by digest
	endpointTags                     // the tags of a repository
)

// request is the path of a request, taken apart.
type request struct {
	endpoint  endpoint
	name      string // of the repository, e.g. "library/busybox"
	reference string // tag or digest
}

var (
	errNoEndpoint = errors.New("no such endpoint")
	errName       = errors.New("invalid repository name")
	errReference  = errors.New("invalid tag or digest")
)

// The grammar is the distribution specification's.
var (
	namePattern   = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestPattern = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)
)

// maxName is the longest name of a repository that clients are sure to handle.
const maxName = 255

// parsePath takes the path of a request apart. A repository may have "blobs" or
// "manifests" in its name: only what follows the last slash but one counts.
func parsePath(path string) (request, error) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return request{}, errNoEndpoint
	}
	if rest == "" {
		return request{endpoint: endpointVersion}, nil
	}
	rest, reference, ok := cutLast(rest)
	if !ok {
		return request{}, errNoEndpoint
	}
	name, kind, ok := cutLast(rest)
	if !ok {
		return request{}, errNoEndpoint
	}
	r := request{name: name, reference: reference}
	valid := false
	switch kind {
	case "manifests":
		r.endpoint = endpointManifest
		valid = tagPattern.MatchString(reference) || digestPattern.MatchString(reference)
	case "blobs":
		r.endpoint = endpointBlob
		valid = digestPattern.MatchString(reference)
	case "tags":
		if reference != "list" {
			return request{}, errNoEndpoint
		}
		r.endpoint, r.reference = endpointTags, ""
		valid = true
	default:
		return request{}, errNoEndpoint
	}
	if len(name) > maxName || !namePattern.MatchString(name) {
		return request{}, errName
	}
	if !valid {
		return request{}, errReference
	}
	return r, nil
}

// cutLast cuts s around its last slash.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// splitName splits an image's full name, such as
// docker.io/library/busybox:1.37, into registry, repository and tag.
func splitName(full string) (registry, repository, tag string, err error) {
	registry, rest, ok := strings.Cut(full, "/")
	if !ok || registry == "" {
		return "", "", "", errName
	}
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return "", "", "", errReference
	}
	repository, tag = rest[:i], rest[i+1:]
	if len(repository) > maxName || !namePattern.MatchString(repository) {
		return "", "", "", errName
	}
	if !tagPattern.MatchString(tag) {
		return "", "", "", errReference
	}
	return registry, repository, tag, nil
}
