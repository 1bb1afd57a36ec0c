package engine

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// virtualService makes a virtual cluster and something in it, between objects in the
// super cluster.
const virtualService = `
parameterSchema:
  type: object
  properties:
    greeting: {type: string, default: hello}
plans: [{name: small}]
access:
  super: [{kind: ConfigMap}, {kind: Secret}, {group: tenancy.bulkhead.dev, kind: VirtualCluster}]
  tenant: [{kind: Namespace}, {kind: ConfigMap}]
order: Sequence
steps:
- name: base
  manifests:
    objects:
    - id: settings
      template: {apiVersion: v1, kind: ConfigMap, metadata: {name: '${instance.name}-settings'}, data: {greeting: '${params.greeting}'}}
    - id: secret
      template: {apiVersion: v1, kind: Secret, metadata: {name: '${instance.name}-secret'}, stringData: {password: x}}
  outputs:
  - {name: settings, value: '${objects.settings.metadata.name}'}
  - {name: password, secret: {name: '${objects.secret.metadata.name}', key: password}}
- name: cluster
  condition: ClusterReady
  manifests:
    objects:
    - id: vc
      template: {apiVersion: tenancy.bulkhead.dev/v1alpha1, kind: VirtualCluster, metadata: {name: '${instance.name}'}, spec: {}}
- name: inside
  target: {virtualCluster: cluster}
  condition: InsideReady
  manifests:
    objects:
    - id: one
      template: {apiVersion: v1, kind: ConfigMap, metadata: {name: 'one-${instance.uid}', namespace: default}, data: {settings: '${steps.base.outputs.settings}'}}
    - id: two
      template: {apiVersion: v1, kind: ConfigMap, metadata: {name: 'two-${instance.uid}', namespace: default}}
- name: seen
  target: {virtualCluster: cluster}
  wait:
    object: {apiVersion: v1, kind: ConfigMap, namespace: default, name: 'one-${instance.uid}'}
    until: self.data.settings != ''
  outputs:
  - {name: settings, value: '${self.data.settings}'}
- name: last
  condition: ConsoleReady
  manifests:
    objects:
    - id: last
      template: {apiVersion: v1, kind: ConfigMap, metadata: {name: '${instance.name}-last'}, data: {seen: '${steps.seen.outputs.settings}'}}
outputs:
- {name: seen, value: 'got ${steps.seen.outputs.settings}'}
`

// ABM ends at each of its writes, before it arrives or after, on the way forwards and
// on the way back. Another one comes, brings the instance about, takes it back, and
// leaves nothing.
func TestEndsAtEveryWrite(t *testing.T) {
	service := define(t, virtualService)
	life := func(f *fault) *process { return start(t, f) }

	// How many writes there are.
	counting := &fault{}
	instance := buy(t, service, nil)
	p := life(counting)
	p.untilReady(t, instance)
	forwards := counting.writes
	p.release(t, instance)
	all := counting.writes
	nothingLeft(t, instance)
	t.Logf("%d writes forwards, %d backwards", forwards, all-forwards)
	if all < 20 {
		t.Fatalf("%d writes are too few to try", all)
	}
	// Every other one: all of them take as long again, and have been seen to pass.
	for at := 1; at <= all; at += 2 {
		late := at%4 == 1
		t.Run(fmt.Sprintf("write %d, late %v", at, late), func(t *testing.T) {
			t.Parallel()
			instance := buy(t, service, nil)
			f := &fault{at: at, late: late}
			first := life(f)
			first.untilReady(t, instance)
			if at > forwards && !f.isDead() {
				first.release(t, instance)
			}
			second := life(&fault{})
			if at%3 == 0 {
				// Deleted while ABM is away.
				deleteInstance(t, instance)
			}
			second.untilReady(t, instance)
			if at%3 != 0 && instance.DeletionTimestamp == nil && at <= forwards {
				checkWhole(t, instance)
			}
			second.release(t, instance)
			second.release(t, instance)
			nothingLeft(t, instance)
		})
	}
}

// checkWhole sees that an instance of virtualService is all there, and only once.
func checkWhole(t *testing.T, instance *abmv1alpha1.ServiceInstance) {
	t.Helper()
	last := &corev1.ConfigMap{}
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: instance.Namespace, Name: "acme-last"}, last); err != nil {
		t.Error(err)
	}
	if last.Data["seen"] != "acme-settings" {
		t.Errorf("outputs did not come through: %v", last.Data)
	}
	// Two objects each in base, inside; one each in cluster, last; two rights; five records.
	if found := leftovers(t, instance); len(found) != 13 {
		t.Errorf("there are %d objects:\n%v", len(found), found)
	}
	if got := instance.Status.Outputs; len(got) != 1 || got[0].Value != "got acme-settings" {
		t.Errorf("outputs are %+v", got)
	}
}
