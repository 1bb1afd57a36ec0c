package service

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

var update = flag.Bool("update", false, "write golden files anew")

// whole is a definition with something of everything.
const whole = `
title: Streams
parameterSchema:
  type: object
  required: [units]
  properties:
    units: {type: integer, minimum: 1, maximum: 8}
    note: {type: string, maxLength: 100}
    labels: {type: object, additionalProperties: {type: string}}
    debug: {type: boolean, default: false}
  x-kubernetes-validations:
  - {rule: 'self.units < 8 || !self.debug', message: large ones cannot be debugged}
planSchema:
  type: object
  required: [replicas]
  properties:
    replicas: {type: integer}
plans:
- {name: small, values: {replicas: 1}}
- {name: large, values: {replicas: 5}}
access:
  super: [{kind: ConfigMap}, {group: apps, kind: Deployment}, {group: tenancy.bulkhead.dev, kind: VirtualCluster}, {kind: Secret}]
  tenant: [{kind: Namespace}, {kind: ConfigMap}]
  hosts: [api.example.com, '*.console.example.com:8443']
order: Graph
steps:
- name: settings
  manifests:
    objects:
    - id: config
      template:
        apiVersion: v1
        kind: ConfigMap
        metadata: {name: '${instance.name}-config', labels: '${params.?labels}'}
        data:
          units: '${string(params.units)}'
          text: 'units=${params.units} debug=${params.debug} $${not.computed}'
          note: '${params.?note}'
    - id: server
      when: plan.replicas > 1
      template:
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: '${instance.name}'}
        spec: {replicas: '${instance.suspended ? 0 : plan.replicas}', paused: '${params.debug}'}
      readyWhen: self.status.readyReplicas == self.spec.replicas
  outputs:
  - {name: config, value: '${objects.config.metadata.name}'}
- name: vc
  condition: ClusterReady
  manifests:
    objects:
    - {id: vc, template: {apiVersion: tenancy.bulkhead.dev/v1alpha1, kind: VirtualCluster, metadata: {name: '${instance.name}'}}}
- name: inside
  target: {virtualCluster: vc}
  needs: [settings]
  manifests:
    objects:
    - {id: ns, template: {apiVersion: v1, kind: Namespace, metadata: {name: jobs}}}
    - {id: config, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: jobs}, data: {config: '${steps.settings.outputs.config}'}}}
- name: ask
  needs: [inside]
  approval: {question: 'May ${instance.namespace} have ${params.units}?'}
- name: register
  needs: [ask]
  when: '!params.debug'
  http:
    do: {method: PUT, url: 'https://api.example.com/v1/${instance.uid}', body: {name: '${instance.name}', units: '${params.units}'}}
    undo: {method: DELETE, url: 'https://api.example.com/v1/${instance.uid}'}
    until: response.body.state == 'ready'
    authorization: {name: api-token, key: token}
  outputs:
  - {name: url, value: 'https://${response.body.host}/'}
outputs:
- {name: console, value: '${steps.?register.?outputs.?url.orValue("")}'}
`

func parse(t testing.TB, text string) *abmv1alpha1.ServiceSpec {
	t.Helper()
	spec := &abmv1alpha1.ServiceSpec{}
	if err := yaml.UnmarshalStrict([]byte(text), spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestWholeDefinitionCompiles(t *testing.T) {
	s, problems := Compile(t.Context(), parse(t, whole), field.NewPath("spec"))
	if len(problems) > 0 {
		t.Fatal(problems.ToAggregate())
	}
	var order []string
	for _, step := range s.Steps {
		order = append(order, step.Spec.Name)
	}
	if got := strings.Join(order, " "); got != "settings vc inside ask register" {
		t.Errorf("the order is %s", got)
	}
	if inside, _ := s.Step("inside"); inside.Order != 1 || strings.Join(inside.Needs, " ") != "settings vc" {
		t.Errorf("inside has order %d and needs %v", inside.Order, inside.Needs)
	}
}

// Each mistake is told with its place.
func TestMistakesInDefinitions(t *testing.T) {
	for name, tc := range map[string]struct {
		old, new string // replaced in whole
		path     string
		says     string
	}{
		"circle":                   {"needs: [settings]", "needs: [settings, register]", "spec.steps[2].needs", "inside needs register needs ask needs inside"},
		"needs itself":             {"needs: [ask]", "needs: [ask, register]", "spec.steps[4].needs", "circle"},
		"needs nobody":             {"needs: [ask]", "needs: [asc]", "spec.steps[4].needs[0]", "no such step"},
		"needs in a sequence":      {"order: Graph", "order: Sequence", "spec.steps[2].needs", "unless spec.order is Graph"},
		"target nobody":            {"virtualCluster: vc}", "virtualCluster: vd}", "spec.steps[2].target.virtualCluster", "no such step"},
		"target without cluster":   {"virtualCluster: vc}", "virtualCluster: settings}", "spec.steps[2].target.virtualCluster", "makes 0 virtual clusters"},
		"no expression":            {"'${string(params.units)}'", "'${string(params.units}'", "spec.steps[0].manifests.objects[0].template.data.units", "Syntax error"},
		"no end":                   {"'${string(params.units)}'", "'${params.units'", "spec.steps[0].manifests.objects[0].template.data.units", "without its }"},
		"no such parameter":        {"params.?note", "params.?nope", "spec.steps[0].manifests.objects[0].template.data.note", "undefined field 'nope'"},
		"no such plan value":       {"when: plan.replicas > 1", "when: plan.size > 1", "spec.steps[0].manifests.objects[1].when", "undefined field 'size'"},
		"wrong type":               {"when: plan.replicas > 1", "when: plan.replicas", "spec.steps[0].manifests.objects[1].when", "must be true or false"},
		"types that do not fit":    {"units=${params.units}", "units=${params.labels}", "spec.steps[0].manifests.objects[0].template.data.text", "cannot be part of a text"},
		"a later step":             {"data: {config: '${steps.settings.outputs.config}'}", "data: {config: '${steps.register.outputs.url}'}", "spec.steps[2].manifests.objects[1].template.data.config", "undefined field 'register'"},
		"no such output":           {"steps.settings.outputs.config}'}}", "steps.settings.outputs.nope}'}}", "spec.steps[2].manifests.objects[1].template.data.config", "undefined field 'nope'"},
		"no such object":           {"objects.config.metadata.name", "objects.nope.metadata.name", "spec.steps[0].outputs[0].value", "undefined field 'nope'"},
		"kind not opened":          {"{kind: ConfigMap}, {group: apps", "{group: apps", "spec.steps[0].manifests.objects[0].template", "not among the kinds that spec.access.super opens"},
		"kind not opened inside":   {"tenant: [{kind: Namespace}, ", "tenant: [", "spec.steps[2].manifests.objects[0].template", "spec.access.tenant"},
		"kind computed":            {"kind: Deployment\n", "kind: '${params.note}'\n", "spec.steps[0].manifests.objects[1].template", "cannot be computed"},
		"version computed":         {"apiVersion: apps/v1\n", "apiVersion: 'apps/${params.note}'\n", "spec.steps[0].manifests.objects[1].template", "cannot be computed"},
		"namespace computed":       {"name: x, namespace: jobs", "name: x, namespace: '${params.note}'", "spec.steps[2].manifests.objects[1].template.metadata.namespace", "cannot be computed"},
		"foreign namespace":        {"metadata: {name: '${instance.name}'}\n        spec", "metadata: {name: '${instance.name}', namespace: kube-system}\n        spec", "spec.steps[0].manifests.objects[1].template.metadata.namespace", "the instance's own namespace"},
		"owner set":                {"metadata: {name: jobs}", "metadata: {name: jobs, ownerReferences: []}", "spec.steps[2].manifests.objects[0].template.metadata.ownerReferences", "not a definition's to set"},
		"our label":                {"labels: '${params.?labels}'", "labels: {abm.bulkhead.dev/instance-uid: x}", "spec.steps[0].manifests.objects[0].template.metadata.labels[abm.bulkhead.dev/instance-uid]", "Bulkhead's own"},
		"key computed":             {"units: '${string(params.units)}'", "'${params.note}': x", "spec.steps[0].manifests.objects[0].template.data.${params.note}", "keys cannot be computed"},
		"name missing":             {"metadata: {name: jobs}", "metadata: {}", "spec.steps[2].manifests.objects[0].template.metadata.name", "needs a name"},
		"host not opened":          {"url: 'https://api.example.com/v1/${instance.uid}', body", "url: 'https://evil.example.com/v1', body", "spec.steps[4].http.do.url", "not among spec.access.hosts"},
		"no TLS":                   {"url: 'https://api.example.com/v1/${instance.uid}', body", "url: 'http://api.example.com/v1', body", "spec.steps[4].http.do.url", "must begin with https://"},
		"scheme computed":          {"url: 'https://api.example.com/v1/${instance.uid}', body", "url: '${params.note}', body", "spec.steps[4].http.do.url", "must begin with https://"},
		"secret not opened":        {", {kind: Secret}]", "]", "spec.steps[4].http.authorization", "kind Secret is not among"},
		"until is no truth":        {"response.body.state == 'ready'", "1 + 1", "spec.steps[4].http.until", "must be true or false"},
		"question no expression":   {"'May ${instance.namespace}", "'May ${instance.nope}", "spec.steps[3].approval.question", "undefined field 'nope'"},
		"schema is not structural": {"units: {type: integer,", "units: {minimun: 3, type: integer,", "spec.parameterSchema", "minimun"},
		"schema without types":     {"note: {type: string, maxLength: 100}", "note: {maxLength: 100}", "spec.parameterSchema.properties[note].type", "must not be empty"},
		"default does not fit":     {"default: false", "default: maybe", "spec.parameterSchema.properties[debug].default", "must be of type boolean"},
		"rule does not compile":    {"rule: 'self.units < 8 ||", "rule: 'self.unit < 8 ||", "spec.parameterSchema.x-kubernetes-validations[0].rule", "undefined field 'unit'"},
		"plan does not fit":        {"values: {replicas: 5}", "values: {replicas: many}", "spec.plans[1].values.replicas", "must be of type integer"},
		"plan with unknown value":  {"values: {replicas: 5}", "values: {replicas: 5, extra: 1}", "spec.plans[1].values.extra", "no such field"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(whole, tc.old, tc.new, 1)
			if changed == whole {
				t.Fatalf("%q is not in the definition", tc.old)
			}
			_, problems := Compile(t.Context(), parse(t, changed), field.NewPath("spec"))
			for _, problem := range problems {
				if problem.Field == tc.path && strings.Contains(problem.Error(), tc.says) {
					return
				}
			}
			t.Errorf("want %q at %s, got: %v", tc.says, tc.path, problems.ToAggregate())
		})
	}
}

func TestMistakesInPurchases(t *testing.T) {
	s, problems := Compile(t.Context(), parse(t, whole), field.NewPath("spec"))
	if len(problems) > 0 {
		t.Fatal(problems.ToAggregate())
	}
	for name, tc := range map[string]struct {
		plan, parameters string
		path, says       string // nothing where the purchase is good
	}{
		"good":           {"small", `{"units": 3, "note": "x", "labels": {"a": "b"}}`, "", ""},
		"no such plan":   {"huge", `{"units": 3}`, "spec.planName", `supported values: "small", "large"`},
		"missing":        {"small", `{}`, "spec.parameters.units", "Required value"},
		"nothing at all": {"small", ``, "spec.parameters.units", "Required value"},
		"too large":      {"small", `{"units": 9}`, "spec.parameters.units", "less than or equal to 8"},
		"wrong type":     {"small", `{"units": "3"}`, "spec.parameters.units", "must be of type integer"},
		"unknown":        {"small", `{"units": 3, "image": "evil"}`, "spec.parameters.image", "no such field"},
		"a plan's value": {"small", `{"units": 3, "replicas": 99}`, "spec.parameters.replicas", "no such field"},
		"broken rule":    {"small", `{"units": 8, "debug": true}`, "spec.parameters", "large ones cannot be debugged"},
		"no object":      {"small", `[1]`, "spec.parameters", "is no object"},
		"expression":     {"small", `{"units": 3, "note": "${plan.replicas}"}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			spec := &abmv1alpha1.ServiceInstanceSpec{PlanName: tc.plan, Parameters: &runtime.RawExtension{Raw: []byte(tc.parameters)}}
			_, problems := s.Check(t.Context(), spec, nil, field.NewPath("spec"))
			if tc.says == "" {
				if len(problems) > 0 {
					t.Error(problems.ToAggregate())
				}
				return
			}
			for _, problem := range problems {
				if problem.Field == tc.path && strings.Contains(problem.Error(), tc.says) {
					return
				}
			}
			t.Errorf("want %q at %s, got: %v", tc.says, tc.path, problems.ToAggregate())
		})
	}
}

// What each step is about to do, for two purchases. The second tries to become more
// than a value.
func TestRendered(t *testing.T) {
	s, problems := Compile(t.Context(), parse(t, whole), field.NewPath("spec"))
	if len(problems) > 0 {
		t.Fatal(problems.ToAggregate())
	}
	for name, spec := range map[string]abmv1alpha1.ServiceInstanceSpec{
		"small": {ServiceName: "streams", PlanName: "small", Parameters: &runtime.RawExtension{Raw: []byte(`{"units": 2}`)}},
		"hostile": {
			ServiceName: "streams", PlanName: "large", State: abmv1alpha1.StateSuspended,
			Parameters: &runtime.RawExtension{Raw: []byte(`{"units": 2, "note": "${plan.replicas}\"}, kind: Secret, {\"a\": \"", "labels": {"a": "x\nkind: Secret", "${plan.replicas}": "b"}}`)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			instance := &abmv1alpha1.ServiceInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "buyer", Name: "acme", UID: "uid-1"}, Spec: spec}
			parameters, problems := s.Check(t.Context(), &spec, nil, field.NewPath("spec"))
			if len(problems) > 0 {
				t.Fatal(problems.ToAggregate())
			}
			values := s.Values(instance, parameters)
			values["steps"] = map[string]any{"settings": map[string]any{"outputs": map[string]any{"config": "acme-config"}}}
			rendered := map[string]any{}
			for _, step := range s.Steps {
				plan, err := step.Action.Plan(t.Context(), values)
				if err != nil {
					t.Fatalf("step %s: %v", step.Spec.Name, err)
				}
				rendered[step.Spec.Name] = plan.Input
			}
			data, err := json.Marshal(rendered)
			if err != nil {
				t.Fatal(err)
			}
			text, err := yaml.JSONToYAML(data)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) != string(text) {
				t.Errorf("rendered other than %s, run with -update and look at the difference:\n%s", path, text)
			}
		})
	}
}

// Whatever a buyer sends is checked without a panic, and what passes renders objects
// of the very kinds, names and namespaces that the definition has.
func FuzzParameters(f *testing.F) {
	f.Add(`{"units": 2}`)
	f.Add(`{"units": 2, "note": "${params}", "labels": {"a": "$${"}}`)
	f.Add(`{"units": 1e3, "debug": null}`)
	s, problems := Compile(f.Context(), parse(f, whole), field.NewPath("spec"))
	if len(problems) > 0 {
		f.Fatal(problems.ToAggregate())
	}
	settings, _ := s.Step("settings")
	f.Fuzz(func(t *testing.T, text string) {
		spec := abmv1alpha1.ServiceInstanceSpec{ServiceName: "streams", PlanName: "large", Parameters: &runtime.RawExtension{Raw: []byte(text)}}
		parameters, problems := s.Check(t.Context(), &spec, nil, field.NewPath("spec"))
		if len(problems) > 0 {
			return
		}
		instance := &abmv1alpha1.ServiceInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "buyer", Name: "acme", UID: "uid-1"}, Spec: spec}
		plan, err := settings.Action.Plan(t.Context(), s.Values(instance, parameters))
		if err != nil {
			return
		}
		record := &abmv1alpha1.StepRecord{}
		plan.Intend(record)
		want := []abmv1alpha1.ObjectRecord{{APIVersion: "v1", Kind: "ConfigMap", Name: "acme-config"}, {APIVersion: "apps/v1", Kind: "Deployment", Name: "acme"}}
		if len(record.Objects) != 2 || record.Objects[0] != want[0] || record.Objects[1] != want[1] {
			t.Errorf("%s made %+v", text, record.Objects)
		}
	})
}
