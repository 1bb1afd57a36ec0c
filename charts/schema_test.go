package charts_test

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

func TestSchemaRefusesBadValues(t *testing.T) {
	for name, tc := range map[string]struct{ values, want string }{
		"unknown value":           {`{replicas: 3}`, "additional properties 'replicas' not allowed"},
		"unknown nested value":    {`{vcManager: {replica: 3}}`, "/vcManager"},
		"replicas as text":        {`{syncer: {replicas: two}}`, "/syncer/replicas"},
		"replicas of a daemonset": {`{vnAgent: {replicas: 2}}`, "/vnAgent"},
		"tag latest":              {`{vnAgent: {image: {tag: latest}}}`, "/vnAgent/image/tag"},
		"digest cut short":        {`{vnAgent: {image: {digest: "sha256:12"}}}`, "/vnAgent/image/digest"},
		"image without tag":       {`{controlPlaneImages: {etcd: registry.k8s.io/etcd}}`, "/controlPlaneImages/etcd"},
		"image with tag latest":   {`{controlPlaneImages: {etcd: "registry.k8s.io/etcd:latest"}}`, "/controlPlaneImages/etcd"},
		"port is no tag":          {`{controlPlaneImages: {etcd: "registry.example:5000/etcd"}}`, "/controlPlaneImages/etcd"},
		"domain":                  {`{superClusterDomain: "Cluster Local"}`, "/superClusterDomain"},
		"argument":                {`{syncer: {extraArgs: ["v=2"]}}`, "/syncer/extraArgs/0"},
		"empty peer":              {`{networkPolicy: {metricsFrom: [{}]}}`, "/networkPolicy/metricsFrom/0"},
		"network":                 {`{tenantNetwork: {denied: [10.0.0.0]}}`, "/tenantNetwork/denied/0"},
		"resolver":                {`{tenantNetwork: {resolvers: [dns.example]}}`, "/tenantNetwork/resolvers/0"},
		"replicas of the fence":   {`{fence: {replicas: 2}}`, "/fence"},
		"class field":             {`{defaultClass: {spec: {podSecurty: baseline}}}`, "/defaultClass/spec"},
		"class nested field":      {`{defaultClass: {spec: {etcd: {storage: {syze: 1Gi}}}}}`, "/defaultClass/spec/etcd/storage"},
		"class enumeration":       {`{defaultClass: {spec: {exposure: {type: Ingress}}}}`, "/defaultClass/spec/exposure/type"},
	} {
		t.Run(name, func(t *testing.T) {
			var values map[string]any
			if err := yaml.Unmarshal([]byte(tc.values), &values); err != nil {
				t.Fatal(err)
			}
			_, err := template(t, values)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error about %q", err, tc.want)
			}
		})
	}
}

func TestSchemaTakesGoodValues(t *testing.T) {
	for name, text := range map[string]string{
		"digest for tag":         `{controlPlaneImages: {etcd: "registry.example:5000/a/b@sha256:` + strings.Repeat("a", 64) + `"}}`,
		"tag behind a port":      `{controlPlaneImages: {etcd: "registry.example:5000/a/b:1.2"}}`,
		"registry with a path":   `{syncer: {image: {registry: "registry.example:5000/mirror"}}}`,
		"networks":               `{tenantNetwork: {denied: [], allowed: [10.9.0.0/16], pods: [10.78.0.0/16, "fd78::/48"], resolvers: [192.0.2.53, "2001:db8::53"]}}`,
		"a fence":                `{fence: {enabled: true, enforce: false}}`,
		"no default class":       `{defaultClass: {create: false}}`,
		"a whole class":          `{defaultClass: {spec: {podSecurity: restricted, runtimeClassName: kata, storageClasses: [fast], exposure: {type: NodePort, host: nodes.example}, etcd: {resources: {requests: {cpu: 1, memory: 1Gi}}, storage: {size: 4Gi}}}}}`,
		"no limits, no replicas": `{syncer: {replicas: 0, resources: {requests: {cpu: 1}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			var values map[string]any
			if err := yaml.Unmarshal([]byte(text), &values); err != nil {
				t.Fatal(err)
			}
			mustTemplate(t, values)
		})
	}
}

func TestOldClustersAreRefused(t *testing.T) {
	if _, err := template(t, nil, "--kube-version", "1.33.9"); err == nil || !strings.Contains(err.Error(), "requires kubeVersion") {
		t.Errorf("got %v", err)
	}
	for _, version := range []string{"1.34.0", "1.36.3", "1.34.1-vendor.7"} {
		if _, err := template(t, nil, "--kube-version", version); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
}

// classDefinition is where values.schema.json says what a class may hold.
const classDefinition = "virtualClusterClassSpec"

// The schema of the default class is the CRD's, made strict: a misspelt field is
// refused by helm rather than dropped by the API server.
func TestSchemaOfClassIsTheCRDs(t *testing.T) {
	const file = "bulkhead/values.schema.json"
	want := encode(t, strict(t, classSchema(t)))
	schema := readJSON(t, file)
	definitions := schema["definitions"].(map[string]any)
	if *update {
		writeDefinition(t, file, want)
		definitions = readJSON(t, file)["definitions"].(map[string]any)
	}
	if diff := cmp.Diff(want, encode(t, definitions[classDefinition])); diff != "" {
		t.Errorf("%s is not the CRD's schema (run the test with -update):\n%s", classDefinition, diff)
	}
}

func classSchema(t *testing.T) map[string]any {
	t.Helper()
	data, err := os.ReadFile("bulkhead/files/crds/tenancy.bulkhead.dev_virtualclusterclasses.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &crd); err != nil {
		t.Fatal(err)
	}
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	var schema map[string]any
	if err := json.Unmarshal([]byte(encode(t, spec)), &schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

// strict turns a structural schema of a CRD into JSON Schema that allows nothing
// which is not listed.
func strict(t *testing.T, schema map[string]any) map[string]any {
	t.Helper()
	out := map[string]any{}
	for key, value := range schema {
		switch {
		case strings.HasPrefix(key, "x-kubernetes-"), key == "description", key == "default", key == "format":
		case key == "properties":
			properties := map[string]any{}
			for name, property := range value.(map[string]any) {
				properties[name] = strict(t, property.(map[string]any))
			}
			out[key], out["additionalProperties"] = properties, false
		case key == "items", key == "additionalProperties":
			out[key] = strict(t, value.(map[string]any))
		case slices.Contains([]string{"type", "enum", "pattern", "anyOf", "required", "minLength", "maxLength", "minimum", "maximum", "maxItems", "maxProperties"}, key):
			out[key] = value
		default:
			t.Fatalf("the CRD uses %q, which this test does not know how to carry over", key)
		}
	}
	return out
}

func encode(t *testing.T, value any) string {
	t.Helper()
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("    ", "  ")
	if err := encoder.Encode(value); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(data.String())
}

func readJSON(t *testing.T, file string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var value map[string]any
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// writeDefinition replaces the definition, which is the file's last, and leaves the
// rest as its authors wrote it.
func writeDefinition(t *testing.T, file, definition string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(data), `"`+classDefinition+`": {`)
	if !found {
		t.Fatalf("%s has no %s", file, classDefinition)
	}
	text := before + `"` + classDefinition + `": ` + definition + "\n  }\n}\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
