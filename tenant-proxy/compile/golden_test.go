package compile

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	testNode   = Node{Name: "node-1", Zone: "zone-1"}
	testRanges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10::/112")}
)

// cluster is what a tenant's cluster holds.
type cluster struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	nodes    []*corev1.Node
}

// into puts everything into a table.
func (c *cluster) into(t *Table) {
	for _, node := range c.nodes {
		t.PutNode(node.Name, NodeAddresses(node))
	}
	for _, slice := range c.slices {
		if of := ServiceOf(slice); of.Name != "" {
			t.PutSlice(of, NewSlice(t.node.Name, slice))
		}
	}
	for _, service := range c.services {
		t.PutService(NewService(service))
	}
}

func readCluster(t *testing.T, path string) *cluster {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	c := &cluster{}
	for decoder := yaml.NewYAMLOrJSONDecoder(file, 4096); ; {
		var content map[string]any
		if err := decoder.Decode(&content); errors.Is(err, io.EOF) {
			return c
		} else if err != nil {
			t.Fatal(err)
		}
		var object any
		switch content["kind"] {
		case "Service":
			c.services = append(c.services, &corev1.Service{})
			object = c.services[len(c.services)-1]
		case "EndpointSlice":
			c.slices = append(c.slices, &discoveryv1.EndpointSlice{})
			object = c.slices[len(c.slices)-1]
		case "Node":
			c.nodes = append(c.nodes, &corev1.Node{})
			object = c.nodes[len(c.nodes)-1]
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(content, object, true); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
}

// describe shows rules and problems, a line each.
func describe(t *Table) string {
	rules, _ := t.Compile()
	var text strings.Builder
	for _, rule := range rules {
		fmt.Fprintf(&text, "%s ->", rule.Key)
		for _, endpoint := range rule.Endpoints {
			fmt.Fprintf(&text, " %s", endpoint)
		}
		if len(rule.Endpoints) == 0 {
			text.WriteString(" refused")
		}
		if rule.Affinity > 0 {
			fmt.Fprintf(&text, " affinity %d", rule.Affinity)
		}
		text.WriteString("\n")
	}
	names := t.Services()
	slices.SortFunc(names, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	for _, name := range names {
		_, problems := t.Problems(name)
		for _, problem := range problems {
			fmt.Fprintf(&text, "%s: %s: %s\n", name, problem.Reason, problem.Message)
		}
	}
	return text.String()
}

// valid checks rules by the standard of those who take them.
func valid(t *testing.T, table *Table) {
	t.Helper()
	rules, _ := table.Compile()
	set, err := ruleset.New("tenant", 1, slices.Clone(testRanges), slices.Clone(rules))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fmt.Sprint(rules), fmt.Sprint(set.Services())); diff != "" {
		t.Errorf("rules are not in order:\n%s", diff)
	}
}

// Each file of testdata is a tenant's cluster; beside it stands what becomes of it.
func TestRules(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			table := NewTable(testNode, testRanges)
			readCluster(t, file).into(table)
			got := describe(table)
			valid(t, table)
			path := strings.TrimSuffix(file, ".yaml") + ".rules"
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v: run the test with -update", err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
