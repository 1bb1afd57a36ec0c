package bootstrap

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/vc-manager/apply"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sample() Input {
	return Input{
		MetricsServer: netip.MustParseAddr("10.77.0.9"), ClusterCA: "the tenant's CA\n",
		DNS: DNS{Address: netip.MustParseAddr("10.96.0.10"), Domain: "cluster.local", Image: "registry.k8s.io/coredns/coredns:v1.15.0"},
	}
}

// Every object in a tenant's cluster looks as it did when somebody last looked at it.
func TestObjects(t *testing.T) {
	seen := map[string]bool{}
	for _, object := range Objects(sample()) {
		manifest, err := apply.Manifest(object)
		if err != nil {
			t.Fatal(err)
		}
		got, err := yaml.Marshal(manifest.Object)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.ToLower(manifest.GetKind()) + "-" + strings.ReplaceAll(manifest.GetName(), ":", "-") + ".yaml"
		seen[name] = true
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v: run the test with -update", err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !seen[file.Name()] {
			t.Errorf("testdata/%s is rendered no more", file.Name())
		}
	}
}

// The platform's components get no more than they were given by name: only the
// tenant's own administrators have all rights.
func TestNobodyElseIsAdmin(t *testing.T) {
	for _, object := range Objects(sample()) {
		switch object := object.(type) {
		case *rbacv1.ClusterRole:
			for _, rule := range object.Rules {
				for _, list := range [][]string{rule.Verbs, rule.Resources, rule.APIGroups} {
					for _, item := range list {
						if item == "*" {
							t.Errorf("%s has a wildcard", object.Name)
						}
					}
				}
			}
		case *rbacv1.ClusterRoleBinding:
			if object.RoleRef.Name == "cluster-admin" && object.Name != "bulkhead:cluster-admins" {
				t.Errorf("%s gives %v all rights", object.Name, object.Subjects)
			}
		}
	}
}

func TestWithoutMetricsServer(t *testing.T) {
	for _, object := range Objects(Input{ClusterCA: "x"}) {
		if strings.Contains(object.GetName(), "metrics") {
			t.Errorf("%s is there", apply.Describe(object))
		}
	}
}
