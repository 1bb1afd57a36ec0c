package image

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var someDigest = "sha256:" + strings.Repeat("0123456789abcdef", 4)

func TestParsePath(t *testing.T) {
	tests := []struct {
		path string
		want request
		err  error
	}{
		{"/v2/", request{endpoint: endpointVersion}, nil},
		{"/v2/pause/manifests/3.10.1", request{endpointManifest, "pause", "3.10.1"}, nil},
		{"/v2/library/busybox/manifests/latest", request{endpointManifest, "library/busybox", "latest"}, nil},
		{"/v2/library/busybox/manifests/" + someDigest, request{endpointManifest, "library/busybox", someDigest}, nil},
		{"/v2/a/b__c-d/e.f/blobs/" + someDigest, request{endpointBlob, "a/b__c-d/e.f", someDigest}, nil},
		{"/v2/blobs/manifests/manifests/blobs", request{endpointManifest, "blobs/manifests", "blobs"}, nil},
		{"/v2/library/busybox/tags/list", request{endpointTags, "library/busybox", ""}, nil},

		{"", request{}, errNoEndpoint},
		{"/", request{}, errNoEndpoint},
		{"/v2", request{}, errNoEndpoint},
		{"/v1/pause/manifests/3", request{}, errNoEndpoint},
		{"/v2/_catalog", request{}, errNoEndpoint},
		{"/v2/manifests/latest", request{}, errNoEndpoint},
		{"/v2/pause/referrers/" + someDigest, request{}, errNoEndpoint},
		{"/v2/pause/tags/latest", request{}, errNoEndpoint},
		{"/v2//manifests/latest", request{}, errName},
		{"/v2/Library/busybox/manifests/latest", request{}, errName},
		{"/v2/../../etc/manifests/latest", request{}, errName},
		{"/v2/a//b/manifests/latest", request{}, errName},
		{"/v2/" + strings.Repeat("a", 256) + "/manifests/latest", request{}, errName},
		{"/v2/pause/manifests/", request{}, errReference},
		{"/v2/pause/manifests/..", request{}, errReference},
		{"/v2/pause/manifests/" + strings.Repeat("a", 129), request{}, errReference},
		{"/v2/pause/manifests/sha512:" + strings.Repeat("a", 128), request{}, errReference},
		{"/v2/pause/blobs/latest", request{}, errReference},
		{"/v2/pause/blobs/" + strings.ToUpper(someDigest), request{}, errReference},
		{"/v2/pause/blobs/" + someDigest + "\n", request{}, errReference},
	}
	for _, tt := range tests {
		got, err := parsePath(tt.path)
		if !errors.Is(err, tt.err) {
			t.Errorf("parsePath(%q): error %v, want %v", tt.path, err, tt.err)
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(request{})); diff != "" {
			t.Errorf("parsePath(%q) (-want +got):\n%s", tt.path, diff)
		}
	}
}

// FuzzParsePath looks for paths that are taken for something else than they
// say: what is parsed must give the path again, and a reference that becomes
// part of a file's name must not lead anywhere.
func FuzzParsePath(f *testing.F) {
	for _, path := range []string{"/v2/", "/v2/library/busybox/manifests/latest", "/v2/a/blobs/" + someDigest, "/v2/a/tags/list", "/v2/../x/blobs/y"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, err := parsePath(path)
		if err != nil {
			if r != (request{}) {
				t.Errorf("parsePath(%q) fails with %v and returns %+v", path, err, r)
			}
			return
		}
		again := map[endpoint]string{
			endpointVersion:  "/v2/",
			endpointManifest: "/v2/" + r.name + "/manifests/" + r.reference,
			endpointBlob:     "/v2/" + r.name + "/blobs/" + r.reference,
			endpointTags:     "/v2/" + r.name + "/tags/list",
		}[r.endpoint]
		if again != path {
			t.Errorf("parsePath(%q) returns %+v, which is %q", path, r, again)
		}
		if strings.ContainsAny(r.reference, "/\\\x00") || r.reference == "." || r.reference == ".." || strings.Contains(r.name, "..") {
			t.Errorf("parsePath(%q) lets %+v through", path, r)
		}
		if r.endpoint == endpointBlob && !digestPattern.MatchString(r.reference) {
			t.Errorf("parsePath(%q): blob reference %q is no digest", path, r.reference)
		}
	})
}

func TestSplitName(t *testing.T) {
	tests := []struct{ full, registry, repository, tag string }{
		{"docker.io/library/busybox:1.37", "docker.io", "library/busybox", "1.37"},
		{"127.0.0.1:5000/pause:3", "127.0.0.1:5000", "pause", "3"},
		{"pause:3", "", "", ""},
		{"docker.io/library/busybox", "", "", ""},
		{"docker.io/library/../busybox:1", "", "", ""},
		{"docker.io/busybox:a b", "", "", ""},
		{"/busybox:1", "", "", ""},
	}
	for _, tt := range tests {
		registry, repository, tag, err := splitName(tt.full)
		if registry != tt.registry || repository != tt.repository || tag != tt.tag || (err != nil) != (tt.registry == "") {
			t.Errorf("splitName(%q) = %q, %q, %q, %v", tt.full, registry, repository, tag, err)
		}
	}
}
