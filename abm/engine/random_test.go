package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// randomService is a graph of steps, each of a few ConfigMaps whose names and number
// the parameters decide. It tells for each ConfigMap's name whether it is wanted with
// some parameters.
func randomService(random *rand.Rand) (definition string, wanted func(parameters map[string]any) map[string]bool) {
	var text strings.Builder
	text.WriteString(`
parameterSchema:
  type: object
  properties: {suffix: {type: string, default: x}, odd: {type: boolean, default: true}}
plans: [{name: small}]
access: {super: [{kind: ConfigMap}]}
order: Graph
steps:
`)
	type object struct {
		name      string
		whenOdd   bool
		suffix    bool
		stepIsOdd bool
	}
	var objects []object
	for i := range 3 + random.IntN(4) {
		fmt.Fprintf(&text, "- name: s%d\n", i)
		var needs []string
		for j := range i {
			if random.IntN(3) == 0 {
				needs = append(needs, fmt.Sprintf("s%d", j))
			}
		}
		fmt.Fprintf(&text, "  needs: [%s]\n", strings.Join(needs, ", "))
		stepIsOdd := random.IntN(4) == 0
		if stepIsOdd {
			text.WriteString("  when: params.odd\n")
		}
		text.WriteString("  manifests:\n    objects:\n")
		for k := range 1 + random.IntN(3) {
			o := object{name: fmt.Sprintf("o%d-%d", i, k), whenOdd: random.IntN(3) == 0, suffix: random.IntN(2) == 0, stepIsOdd: stepIsOdd}
			objects = append(objects, o)
			fmt.Fprintf(&text, "    - id: o%d\n", k)
			if o.whenOdd {
				text.WriteString("      when: params.odd\n")
			}
			name := o.name
			if o.suffix {
				name += "-${params.suffix}"
			}
			fmt.Fprintf(&text, "      template: {apiVersion: v1, kind: ConfigMap, metadata: {name: '%s'}}\n", name)
		}
	}
	return text.String(), func(parameters map[string]any) map[string]bool {
		names := map[string]bool{}
		for _, o := range objects {
			if (o.whenOdd || o.stepIsOdd) && parameters["odd"] == false {
				continue
			}
			name := o.name
			if o.suffix {
				name += "-" + parameters["suffix"].(string)
			}
			names[name] = true
		}
		return names
	}
}

// Whatever happens to an instance, and wherever ABM ends meanwhile: once it is left
// alone there is what its parameters want, as a model says; nobody else's objects are
// touched; and release leaves nothing.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 6))
			text, wanted := randomService(random)
			parameters := map[string]any{"suffix": "x", "odd": true}
			service := define(t, text)
			instance := buy(t, service, func(instance *abmv1alpha1.ServiceInstance) { instance.Spec.Parameters = rawJSON(t, parameters) })
			theirs := &corev1.ConfigMap{}
			theirs.Namespace, theirs.Name = instance.Namespace, "theirs"
			if err := admin.Create(t.Context(), theirs); err != nil {
				t.Fatal(err)
			}
			for range 5 {
				p := start(t, &fault{at: 1 + random.IntN(25), late: random.IntN(2) == 0})
				for range random.IntN(12) {
					if _, err := p.look(t.Context(), instance); errors.Is(err, errDead) {
						break
					}
				}
				switch random.IntN(3) {
				case 0:
					parameters = map[string]any{"suffix": []string{"x", "y", "z"}[random.IntN(3)], "odd": random.IntN(2) == 0}
					change(t, instance, func(spec *abmv1alpha1.ServiceInstanceSpec) { spec.Parameters = rawJSON(t, parameters) })
				case 1:
					removeSome(t, random, instance)
				}
			}
			if seed%3 != 0 {
				start(t, &fault{}).untilReady(t, instance)
				checkModel(t, instance, wanted(parameters))
			}
			deleteInstance(t, instance)
			for range 3 {
				// Ended now and then on the way back too.
				p := start(t, &fault{at: 1 + random.IntN(12), late: random.IntN(2) == 0})
				p.until(t, instance, func() bool { return false })
			}
			start(t, &fault{}).until(t, instance, func() bool { return false })
			nothingLeft(t, instance)
			if err := admin.Get(t.Context(), client.ObjectKeyFromObject(theirs), theirs); err != nil {
				t.Errorf("an object of somebody else: %v", err)
			}
		})
	}
}

// removeSome deletes some of an instance's objects, as somebody might.
func removeSome(t *testing.T, random *rand.Rand, instance *abmv1alpha1.ServiceInstance) {
	t.Helper()
	var list corev1.ConfigMapList
	if err := admin.List(t.Context(), &list, client.InNamespace(instance.Namespace), client.HasLabels{abmv1alpha1.LabelInstanceUID}); err != nil {
		t.Fatal(err)
	}
	for _, object := range list.Items {
		if random.IntN(2) == 0 {
			if err := client.IgnoreNotFound(admin.Delete(t.Context(), &object)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func checkModel(t *testing.T, instance *abmv1alpha1.ServiceInstance, wanted map[string]bool) {
	t.Helper()
	var list corev1.ConfigMapList
	if err := admin.List(t.Context(), &list, client.InNamespace(instance.Namespace), client.HasLabels{abmv1alpha1.LabelInstanceUID}); err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, object := range list.Items {
		got = append(got, object.Name)
	}
	for name := range wanted {
		want = append(want, name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v\n%s", got, want, describeInstance(instance))
	}
	var recorded []string
	for _, record := range records(t, instance) {
		for _, object := range record.Objects {
			recorded = append(recorded, object.Name)
			if object.UID == "" {
				t.Errorf("the record of %s has no UID", object.Name)
			}
		}
	}
	slices.Sort(recorded)
	if !slices.Equal(recorded, want) {
		t.Errorf("the ledger has %v, want %v", recorded, want)
	}
}
