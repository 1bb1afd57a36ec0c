package charts_test

import (
	"strings"
	"testing"
)

func TestRenderedManifests(t *testing.T) {
	for name, tc := range map[string]struct {
		values map[string]any
		flags  []string
	}{
		"default": {},
		"local":   {values: localValues(t)},
		"fence": {
			values: map[string]any{"fence": map[string]any{"enabled": true, "podNetworks": []any{"10.78.0.0/16", "fd78::/48"}}},
			flags:  []string{"--show-only", "templates/fence/daemonset.yaml"},
		},
		"abm": {
			values: map[string]any{"abm": map[string]any{"enabled": true}},
			flags:  []string{"--show-only", "templates/abm/deployment.yaml", "--show-only", "templates/abm/webhook.yaml"},
		},
		// An upgrade, when the API server knows the class's kind.
		"upgrade": {
			values: map[string]any{
				"crds":             map[string]any{"install": false},
				"imagePullSecrets": []any{map[string]any{"name": "pull"}},
				"vcManager": map[string]any{
					"replicas": 1, "nodeSelector": map[string]any{"pool": "platform"},
					"tolerations": []any{map[string]any{"key": "platform", "operator": "Exists"}},
					"extraArgs":   []any{"--v=2"},
				},
				"networkPolicy": map[string]any{"metricsFrom": []any{map[string]any{
					"namespaceSelector": map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": "monitoring"}},
				}}},
			},
			flags: []string{"--is-upgrade", "--api-versions", "tenancy.bulkhead.dev/v1alpha1/VirtualClusterClass"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			golden(t, "testdata/"+name+".yaml", withoutCRDs(mustTemplate(t, tc.values, tc.flags...)))
		})
	}
}

// withoutCRDs leaves out what controller-gen wrote; TestCRDs looks at it.
func withoutCRDs(manifest string) string {
	var kept []string
	for _, document := range strings.SplitAfter(manifest, "\n---\n") {
		if !strings.Contains(document, "\nkind: CustomResourceDefinition\n") {
			kept = append(kept, document)
		}
	}
	return strings.Join(kept, "")
}

func TestCRDs(t *testing.T) {
	found := map[string]bool{}
	for _, object := range objects(t, mustTemplate(t, nil)) {
		if object.GetKind() != "CustomResourceDefinition" {
			continue
		}
		found[object.GetName()] = true
		if object.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
			t.Errorf("uninstalling the release would delete CRD %s and with it every virtual cluster", object.GetName())
		}
	}
	for _, name := range []string{"virtualclusters.tenancy.bulkhead.dev", "virtualclusterclasses.tenancy.bulkhead.dev"} {
		if !found[name] {
			t.Errorf("CRD %s is not in the chart", name)
		}
	}
	manifest := mustTemplate(t, map[string]any{"crds": map[string]any{"install": false}})
	if strings.Contains(manifest, "kind: CustomResourceDefinition") {
		t.Error("crds.install=false renders CRDs")
	}
}
