package charts_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	abm "github.com/bulkhead-dev/bulkhead/abm/rbac"
	fence "github.com/bulkhead-dev/bulkhead/fence/rbac"
	syncer "github.com/bulkhead-dev/bulkhead/syncer/rbac"
	tenantproxy "github.com/bulkhead-dev/bulkhead/tenant-proxy/rbac"
	vcmanager "github.com/bulkhead-dev/bulkhead/vc-manager/rbac"
	vnagent "github.com/bulkhead-dev/bulkhead/vn-agent/rbac"
)

// access is the form of files/rbac/*.yaml.
type access struct {
	// ClusterRules hold in the whole super cluster.
	ClusterRules []rbacv1.PolicyRule `json:"clusterRules,omitempty"`
	// NamespaceRules hold in the release's namespace.
	NamespaceRules []rbacv1.PolicyRule `json:"namespaceRules,omitempty"`
}

// fromCode is what each component's own package says it needs.
var fromCode = map[string]access{
	"vc-manager":   {ClusterRules: vcmanager.SuperRules(), NamespaceRules: vcmanager.PlatformNamespaceRules()},
	"syncer":       {ClusterRules: syncer.SuperRules(), NamespaceRules: syncer.PlatformNamespaceRules()},
	"vn-agent":     {ClusterRules: vnagent.SuperRules()},
	"tenant-proxy": {ClusterRules: tenantproxy.SuperRules()},
	"fence":        {ClusterRules: fence.SuperRules()},
	"abm":          {ClusterRules: append(abm.SuperRules(), abm.ServiceRules()...), NamespaceRules: abm.PlatformNamespaceRules()},
	// In the namespace of the accounts that ABM acts as.
	"abm-accounts": {NamespaceRules: abm.AccountRules()},
}

// The chart holds the very rules that the components' code states.
func TestRulesAreTheComponentsOwn(t *testing.T) {
	for component, want := range fromCode {
		file := "bulkhead/files/rbac/" + component + ".yaml"
		data, err := yaml.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, file, string(data))
		var got access
		if data, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(data, &got); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s says other than %s/rbac:\n%s", file, component, diff)
		}
	}
}

// What each component may do, as a table for people: a change of it shows in review.
func TestWhatEachComponentMayDo(t *testing.T) {
	granted := grants(t, mustTemplate(t, map[string]any{"fence": map[string]any{"enabled": true}, "abm": map[string]any{"enabled": true}}))
	var table strings.Builder
	for _, line := range granted {
		fmt.Fprintln(&table, line)
	}
	golden(t, "testdata/rbac.txt", table.String())
	for _, line := range granted {
		if strings.Contains(line, "*") {
			t.Errorf("a wildcard grants what nobody thought of: %s", line)
		}
	}
}

// grants lists every right that the manifest gives to a ServiceAccount, one a line.
func grants(t *testing.T, manifest string) []string {
	t.Helper()
	roles := map[string][]rbacv1.PolicyRule{}
	all := objects(t, manifest)
	for _, object := range all {
		switch object.GetKind() {
		case "ClusterRole":
			roles["ClusterRole/"+object.GetName()] = typed[rbacv1.ClusterRole](t, object).Rules
		case "Role":
			roles["Role/"+object.GetName()] = typed[rbacv1.Role](t, object).Rules
		}
	}
	var lines []string
	grant := func(subjects []rbacv1.Subject, ref rbacv1.RoleRef, scope string) {
		rules, found := roles[ref.Kind+"/"+ref.Name]
		if !found {
			t.Errorf("%s %s is bound but not in the chart", ref.Kind, ref.Name)
		}
		for _, subject := range subjects {
			if subject.Kind != rbacv1.ServiceAccountKind || subject.Namespace != namespace {
				t.Errorf("%s %s is bound to %s %s/%s", ref.Kind, ref.Name, subject.Kind, subject.Namespace, subject.Name)
			}
			for _, rule := range rules {
				lines = append(lines, describe(subject.Name, scope, rule)...)
			}
		}
	}
	for _, object := range all {
		switch object.GetKind() {
		case "ClusterRoleBinding":
			binding := typed[rbacv1.ClusterRoleBinding](t, object)
			grant(binding.Subjects, binding.RoleRef, "everywhere")
		case "RoleBinding":
			binding := typed[rbacv1.RoleBinding](t, object)
			grant(binding.Subjects, binding.RoleRef, "in "+binding.Namespace)
		}
	}
	slices.Sort(lines)
	return lines
}

func describe(account, scope string, rule rbacv1.PolicyRule) []string {
	var lines []string
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			if group != "" {
				resource += "." + group
			}
			if len(rule.ResourceNames) > 0 {
				resource += " named " + strings.Join(rule.ResourceNames, ", ")
			}
			lines = append(lines, fmt.Sprintf("%s may, %s: %s: %s", account, scope, resource, strings.Join(rule.Verbs, " ")))
		}
	}
	for _, url := range rule.NonResourceURLs {
		lines = append(lines, fmt.Sprintf("%s may, %s: URL %s: %s", account, scope, url, strings.Join(rule.Verbs, " ")))
	}
	return lines
}
