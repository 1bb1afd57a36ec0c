// Package charts_test renders the project's Helm charts with the helm program that
// the embedded super cluster uses, and holds what comes out against the rules of
// the platform.
package charts_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/local/image"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/platform"
)

var update = flag.Bool("update", false, "write golden files and what the chart takes from Go anew")

// namespace is where the tests install the platform.
const namespace = "bulkhead-system"

// helm runs the program with a home of its own and returns its output and errors.
func helm(t *testing.T, stdin []byte, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	program, err := testenv.Program("helm")
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program, args...)
	home := t.TempDir()
	command.Env = append(os.Environ(), "HOME="+home, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	command.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	err = command.Run()
	return out.String(), errs.String(), err
}

// template renders the platform's chart with the values.
func template(t *testing.T, values map[string]any, flags ...string) (string, error) {
	t.Helper()
	data, err := yaml.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"template", "bulkhead", "bulkhead", "--namespace", namespace, "--values", "-"}, flags...)
	stdout, stderr, err := helm(t, data, args...)
	if err != nil {
		return "", errors.New(stderr)
	}
	return stdout, nil
}

func mustTemplate(t *testing.T, values map[string]any, flags ...string) string {
	t.Helper()
	manifest, err := template(t, values, flags...)
	if err != nil {
		t.Fatal(err)
	}
	return manifest
}

// localValues are what `make up` installs with, for images of made-up digests.
func localValues(t *testing.T) map[string]any {
	t.Helper()
	digest := "sha256:" + strings.Repeat("0", 64)
	var images []image.Ref
	for _, name := range []string{"vc-manager:dev", "syncer:dev", "vn-agent:dev", "tenant-proxy:dev", "fence:dev", "abm:dev", "hyperkube:v1.36.3"} {
		images = append(images, image.Ref{Name: "registry.bulkhead.dev/" + name, Digest: digest})
	}
	values, err := platform.Values(layout.DefaultSettings(), []netip.Addr{netip.MustParseAddr("192.0.2.53")}, images)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// objects decodes a manifest of several documents.
func objects(t *testing.T, manifest string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	decoder := yamlutil.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) > 0 {
			all = append(all, object)
		}
	}
}

// typed turns an object into its Go type; a field which that does not have is an error.
func typed[T any](t *testing.T, object *unstructured.Unstructured) *T {
	t.Helper()
	into := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, into, true); err != nil {
		t.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
	}
	return into
}

// golden compares got with the file, or writes it with -update.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not what the chart says now (run the test with -update and read the difference):\n%s", file, diff)
	}
}
