// Package docs_test holds the documents against the code: what they name must exist,
// and what the code offers must be named.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// root is the project's folder.
func root(t *testing.T) string {
	t.Helper()
	dir, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{root(t)}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// documents are all of them, relative to the root.
func documents(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(root(t), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range found {
			relative, err := filepath.Rel(root(t), file)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, relative)
		}
	}
	return all
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	for _, document := range documents(t) {
		for _, match := range link.FindAllStringSubmatch(read(t, document), -1) {
			target := filepath.Join(root(t), filepath.Dir(document), match[1])
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", document, match[1])
			}
		}
	}
}

// path is a file or folder of the work tree, in backticks.
var path = regexp.MustCompile("`((?:abm|api|bench|charts|docs|e2e|examples|fence|hack|hyperkube|internal|kubectl-vc|local|syncer|tenant-proxy|vc-manager|vn-agent)/[^`\\s]*)`")

func TestPathsExist(t *testing.T) {
	for _, document := range documents(t) {
		for _, match := range path.FindAllStringSubmatch(read(t, document), -1) {
			if _, err := os.Stat(filepath.Join(root(t), match[1])); err != nil {
				t.Errorf("%s names %s, which is not there", document, match[1])
			}
		}
	}
}

var (
	flagInCode     = regexp.MustCompile(`flags\.(?:String|Bool|Int|Float64|Duration|)Var\([^"]*"([a-z0-9-]+)"`)
	flagInDocument = regexp.MustCompile("`--([a-z0-9-]+)`")
	metric         = regexp.MustCompile(`bulkhead_[a-z_]+`)
)

// Every component's document lists exactly the flags and metrics that its code has.
func TestFlagsAndMetrics(t *testing.T) {
	for _, component := range []string{"vc-manager", "syncer", "vn-agent", "tenant-proxy", "fence", "cri-ext", "abm"} {
		document := read(t, "docs", component+".md")
		_, flags, found := strings.Cut(document, "\n## Flags\n")
		if !found {
			t.Fatalf("%s.md has no section Flags", component)
		}
		flags, _, _ = strings.Cut(flags, "\n## ")
		if diff := cmp.Diff(inCode(t, component, flagInCode), matches(flagInDocument, flags)); diff != "" {
			t.Errorf("flags of %s (-code +document):\n%s", component, diff)
		}
		if diff := cmp.Diff(inCode(t, component, regexp.MustCompile(`Name:\s+"(bulkhead_[a-z_]+)"`)), matches(metric, document)); diff != "" {
			t.Errorf("metrics of %s (-code +document):\n%s", component, diff)
		}
	}
}

// Metrics that other documents name are some component's.
func TestMetricsExist(t *testing.T) {
	known := map[string]bool{}
	for _, component := range []string{"vc-manager", "syncer", "vn-agent", "tenant-proxy", "fence", "cri-ext", "abm"} {
		for _, name := range inCode(t, component, regexp.MustCompile(`Name:\s+"(bulkhead_[a-z_]+)"`)) {
			known[name] = true
		}
	}
	for _, document := range documents(t) {
		for _, name := range matches(metric, read(t, document)) {
			if !known[name] {
				t.Errorf("%s names metric %s, which no component has", document, name)
			}
		}
	}
}

// inCode finds what a pattern's group matches in a component's Go files.
func inCode(t *testing.T, component string, pattern *regexp.Regexp) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(filepath.Join(root(t), component), func(file string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		found = append(found, matches(pattern, string(data))...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// matches are the different texts that a pattern, or its group, matches, sorted.
func matches(pattern *regexp.Regexp, text string) []string {
	var found []string
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		found = append(found, match[len(match)-1])
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// Every value of the chart has its line in chart.md, and every line is a value.
func TestChartValues(t *testing.T) {
	var values map[string]any
	if err := yaml.Unmarshal([]byte(read(t, "charts", "bulkhead", "values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(read(t, "docs", "chart.md"), "\n## Values\n")
	table, _, _ = strings.Cut(table, "\n## ")
	var documented []string
	for _, line := range strings.Split(table, "\n") {
		row, isRow := strings.CutPrefix(line, "| ")
		if !isRow {
			continue
		}
		cell, _, _ := strings.Cut(row, " | ")
		first := ""
		for _, name := range matchesInOrder(regexp.MustCompile("`([A-Za-z.]+)`"), cell) {
			if strings.HasPrefix(name, ".") {
				name = first[:strings.LastIndex(first, ".")] + name
			}
			first = name
			documented = append(documented, name)
		}
	}
	slices.Sort(documented)
	if diff := cmp.Diff(leaves("", values), documented); diff != "" {
		t.Errorf("values (-chart +document):\n%s", diff)
	}
}

func matchesInOrder(pattern *regexp.Regexp, text string) []string {
	var found []string
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		found = append(found, match[1])
	}
	return found
}

// whole values are documented as one, though they have parts.
var whole = []string{"image", "resources", "nodeSelector", "tolerations", "spec"}

func leaves(prefix string, values map[string]any) []string {
	var names []string
	for name, value := range values {
		if below, ok := value.(map[string]any); ok && !slices.Contains(whole, name) {
			names = append(names, leaves(prefix+name+".", below)...)
			continue
		}
		names = append(names, prefix+name)
	}
	slices.Sort(names)
	return names
}

// The verbs of kubectl-vc are those of its document.
func TestVerbs(t *testing.T) {
	_, table, _ := strings.Cut(read(t, "kubectl-vc", "command", "testdata", "help.out"), "")
	var verbs []string
	for _, line := range strings.Split(strings.TrimSpace(table), "\n") {
		if verb := strings.Fields(line)[0]; verb != "help" {
			verbs = append(verbs, verb)
		}
	}
	slices.Sort(verbs)
	var documented []string
	for _, match := range regexp.MustCompile("(?m)^\\| `([a-z]+)").FindAllStringSubmatch(read(t, "docs", "kubectl-vc.md"), -1) {
		documented = append(documented, match[1])
	}
	slices.Sort(documented)
	if diff := cmp.Diff(verbs, documented); diff != "" {
		t.Errorf("verbs (-program +document):\n%s", diff)
	}
}

// Targets of make that documents name are in the Makefile.
func TestMakeTargets(t *testing.T) {
	targets := matches(regexp.MustCompile(`(?m)^([a-z0-9-]+):`), read(t, "Makefile"))
	for _, document := range documents(t) {
		for _, target := range matches(regexp.MustCompile("(?m)(?:`|^    )(?:[A-Z]+=\\S+ )?make ([a-z0-9-]+)"), read(t, document)) {
			if !slices.Contains(targets, target) {
				t.Errorf("%s names `make %s`, which is no target", document, target)
			}
		}
	}
}
