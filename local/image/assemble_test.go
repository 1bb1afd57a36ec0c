package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/bulkhead-dev/bulkhead/local/artifact"
)

// programFiles are what stands in for the programs: an image's files may hold
// anything.
var programFiles = []string{"hyperkube", "coredns", "local-path-provisioner", "metrics-server", "agnhost", "sample-apiserver", "vc-manager", "syncer", "vn-agent", "tenant-proxy", "fence", "abm"}

// fakePrograms makes a folder with something for every program that an image
// needs, all dated as given.
func fakePrograms(t *testing.T, dated time.Time, mode fs.FileMode) artifact.Programs {
	t.Helper()
	dir := t.TempDir()
	p := artifact.Programs{Bin: dir, CNI: filepath.Join(dir, "cni"), Pause: filepath.Join(dir, "pause"), Busybox: filepath.Join(dir, "busybox")}
	contents := map[string]string{
		p.Pause:   "pause",
		p.Busybox: "#!/bin/sh\necho '['; echo busybox; echo ls; echo sh\n",
	}
	for _, name := range programFiles {
		contents[filepath.Join(dir, name)] = "program " + name + strings.Repeat(" and more of it", 1000)
	}
	for path, content := range contents {
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, dated, dated); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// assemble makes a layout of fake programs.
func assemble(t *testing.T) (dir string, refs []Ref) {
	t.Helper()
	dir = t.TempDir()
	refs, err := Assemble(t.Context(), fakePrograms(t, time.Now(), 0o755), dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, refs
}

// tree returns the names of all files below dir with their content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestSameProgramsGiveSameDigests(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	a, err := Assemble(t.Context(), fakePrograms(t, time.Now(), 0o755), first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Assemble(t.Context(), fakePrograms(t, time.Now().Add(-1000*time.Hour), 0o700), second)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("images of the same programs differ:\n%s", diff)
	}
	if diff := cmp.Diff(tree(t, first), tree(t, second)); diff != "" {
		t.Errorf("layouts of the same programs differ:\n%s", diff)
	}
}

func TestNames(t *testing.T) {
	_, refs := assemble(t)
	var names []string
	for _, ref := range refs {
		names = append(names, ref.Name)
		if !digestPattern.MatchString(ref.Digest) {
			t.Errorf("%s has digest %q", ref.Name, ref.Digest)
		}
	}
	want := []string{
		"docker.io/library/busybox:1.36", "docker.io/library/busybox:1.37", "docker.io/library/busybox:latest",
		"docker.io/rancher/local-path-provisioner:v0.0.30",
		"registry.bulkhead.dev/abm:dev", "registry.bulkhead.dev/fence:dev", "registry.bulkhead.dev/hyperkube:v1.36.3",
		"registry.bulkhead.dev/syncer:dev", "registry.bulkhead.dev/tenant-proxy:dev", "registry.bulkhead.dev/vc-manager:dev", "registry.bulkhead.dev/vn-agent:dev",
		"registry.k8s.io/coredns/coredns:v1.15.0", "registry.k8s.io/e2e-test-images/agnhost:2.63.0", "registry.k8s.io/e2e-test-images/sample-apiserver:1.29.2", "registry.k8s.io/metrics-server/metrics-server:v0.9.0", "registry.k8s.io/pause:3.10.1",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
}

// listing renders an image's files as ls would.
func listing(t *testing.T, s spec) map[string]string {
	t.Helper()
	img, err := s.image()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	reader := tar.NewReader(mutate.Extract(img))
	for {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch) {
			t.Errorf("%s is dated %v", h.Name, h.ModTime)
		}
		what := fmt.Sprintf("%c %o %d:%d", h.Typeflag, h.Mode, h.Uid, h.Gid)
		if h.Linkname != "" {
			what += " -> " + h.Linkname
		}
		if c := h.PAXRecords["SCHILY.xattr.security.capability"]; c != "" {
			what += fmt.Sprintf(" % x", c)
		}
		files[strings.TrimSuffix(h.Name, "/")] = what
	}
}

func TestContentsOfImages(t *testing.T) {
	specs, err := catalog(t.Context(), fakePrograms(t, time.Now(), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	// What the images' users count on, by image.
	want := map[string]map[string]string{
		"registry.bulkhead.dev/hyperkube:v1.36.3": {
			"usr/local/bin/hyperkube":      "0 755 0:0",
			"usr/local/bin/etcd":           "2 777 0:0 -> hyperkube",
			"usr/local/bin/kube-apiserver": "2 777 0:0 -> hyperkube",
			"usr/local/bin":                "5 755 0:0",
			"etc/passwd":                   "0 644 0:0",
			"tmp":                          "5 1777 0:0",
		},
		"docker.io/library/busybox:1.36": {
			"bin/busybox": "0 755 0:0",
			"bin/sh":      "2 777 0:0 -> busybox",
			"bin/[":       "2 777 0:0 -> busybox",
			"usr/bin/env": "2 777 0:0 -> ../../bin/busybox",
			"tmp":         "5 1777 0:0",
			"root":        "5 700 0:0",
		},
		"registry.k8s.io/coredns/coredns:v1.15.0": {
			// Revision 2, effective; permitted: bit 10, CAP_NET_BIND_SERVICE.
			"coredns": "0 755 0:0 01 00 00 02 00 04 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
		},
		"registry.bulkhead.dev/syncer:dev": {
			"syncer":        "0 755 0:0",
			"home/nonroot":  "5 700 65532:65532",
			"etc/ssl/certs": "5 755 0:0",
		},
		"registry.k8s.io/pause:3.10.1": {"pause": "0 755 0:0"},
	}
	for _, s := range specs {
		files := listing(t, s)
		for name, what := range want[s.names[0]] {
			if files[name] != what {
				t.Errorf("%s: %s is %q, want %q", s.names[0], name, files[name], what)
			}
		}
		delete(want, s.names[0])
	}
	for name := range want {
		t.Errorf("there is no image %s", name)
	}
}

func TestAssembleAgain(t *testing.T) {
	dir := t.TempDir()
	programs := fakePrograms(t, time.Now(), 0o755)
	before, err := Assemble(t.Context(), programs, dir)
	if err != nil {
		t.Fatal(err)
	}
	whole := tree(t, dir)

	// What a killed Assemble could leave, and a blob that was cut short.
	blobs, err := os.ReadDir(blobFolder(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		if err := os.Truncate(filepath.Join(blobFolder(dir), blob.Name()), 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{".new-1", strings.Repeat("0", 64)} {
		if err := os.WriteFile(filepath.Join(blobFolder(dir), name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Assemble(t.Context(), programs, dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, again); diff != "" {
		t.Errorf("images changed:\n%s", diff)
	}
	if diff := cmp.Diff(whole, tree(t, dir)); diff != "" {
		t.Errorf("the layout is not as it was:\n%s", diff)
	}

	// Another syncer changes the syncer's image and no other, and leaves
	// nothing of the old one.
	if err := os.WriteFile(filepath.Join(programs.Bin, "syncer"), []byte("new"), 0o755); err != nil {
		t.Fatal(err)
	}
	after, err := Assemble(t.Context(), programs, dir)
	if err != nil {
		t.Fatal(err)
	}
	var changed []string
	for i := range before {
		if before[i] != after[i] {
			changed = append(changed, after[i].Name)
		}
	}
	if diff := cmp.Diff([]string{"registry.bulkhead.dev/syncer:dev"}, changed); diff != "" {
		t.Errorf("changed images (-want +got):\n%s", diff)
	}
	if got := tree(t, dir); len(got) != len(whole) {
		t.Errorf("the layout has %d files, want %d", len(got), len(whole))
	}
}

func TestAssembleNamesWhatIsMissing(t *testing.T) {
	programs := fakePrograms(t, time.Now(), 0o755)
	missing := filepath.Join(programs.Bin, "syncer")
	if err := os.Remove(missing); err != nil {
		t.Fatal(err)
	}
	_, err := Assemble(t.Context(), programs, t.TempDir())
	if err == nil || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "registry.bulkhead.dev/syncer:dev") {
		t.Errorf("error is %v, want one that names image and file", err)
	}
}

func TestNewLayerRefuses(t *testing.T) {
	for name, entries := range map[string][]entry{
		"a path out of the image": {text("../etc/passwd", "")},
		"an absolute path":        {text("/etc/passwd", "")},
		"a folder's slash":        {folder("etc/", 0o755)},
		"no name":                 {text("", "")},
		"a name twice":            {text("a", ""), folder("a", 0o755)},
		"a file below a link":     {link("run", "var/run"), text("run/x", "")},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newLayer(entries); err == nil {
				t.Error("the layer was made")
			}
		})
	}
}
