package kinds

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/networkpolicy"
	"github.com/bulkhead-dev/bulkhead/syncer/podspec"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// Indexes of super pods: by node, and by tenant and node.
const (
	indexNode       = "node"
	indexTenantNode = "tenant-node"
)

// pods go down, and their status comes up. What they become is in package podspec,
// how they live and die in pod_lifecycle.go, their status in pod_status.go.
func pods(networks tenantnetwork.Networks) engine.Kind {
	return &engine.Down[*corev1.Pod]{
		Name: "pods",
		Metadata: func(tenant *corev1.Pod) (labels, annotations map[string]string, _ []translation.Finding) {
			metadata, findings := podspec.Metadata(tenant)
			return metadata.Labels, metadata.Annotations, findings
		},
		Translate: newPod,
		Update:    updatePod,
		Status:    podStatus,
		Needs:     podNeeds,
		Indexes:   podIndexes(),
		Lifecycle: podLifecycle,
		Prepare:   func(ctx context.Context, s *podSync) error { return preparePod(ctx, s, networks) },
		Finish:    finishPod,
		SuperIndexes: map[string]client.IndexerFunc{
			indexAddress: indexPodAddresses,
			indexNode:    func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} },
			indexTenantNode: func(o client.Object) []string {
				return []string{o.GetLabels()[tenancy.LabelTenant] + "/" + o.(*corev1.Pod).Spec.NodeName}
			},
		},
		SuperChanged: func(l *engine.Link, before, super *corev1.Pod, _ bool) {
			enqueueEndpointsOf(l, super)
			// Whether a tenant has pods on a node is found by listing them: not at each
			// change of each of them.
			if super.Spec.NodeName != "" && (before == nil || before.Spec.NodeName == "") {
				l.Enqueue(engine.Key{Resource: "nodes", Name: super.Spec.NodeName})
			}
		},
	}
}

// newPod leaves out what is added to a pod only once it is there.
func newPod(ctx context.Context, l *engine.Link, tenant *corev1.Pod) (*corev1.Pod, []translation.Finding, error) {
	super, findings, err := translatePod(ctx, l, tenant)
	if super != nil {
		super.Spec.EphemeralContainers = nil
	}
	return super, findings, err
}

// translatePod gathers what podspec.Translate depends on.
func translatePod(ctx context.Context, l *engine.Link, tenant *corev1.Pod) (*corev1.Pod, []translation.Finding, error) {
	in := podspec.Input{Tenant: l.Tenant(), Pod: tenant, DNSAddress: l.Tenant().DNSAddress}
	apiServer, err := engine.Get[*corev1.Service](ctx, l.TenantReader(), metav1.NamespaceDefault, "kubernetes")
	switch {
	case err != nil:
		return nil, nil, err
	case apiServer == nil:
		return nil, nil, engine.Wait("service default/kubernetes, whose address pods are told")
	}
	var list corev1.ServiceList
	if err := l.TenantReader().List(ctx, &list, client.InNamespace(tenant.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, nil, fmt.Errorf("listing services of namespace %s: %w", tenant.Namespace, err)
	}
	in.Services = append(in.Services, apiServer)
	for i := range list.Items {
		in.Services = append(in.Services, &list.Items[i])
	}
	dns, err := engine.Get[*corev1.Service](ctx, l.TenantReader(), metav1.NamespaceSystem, "kube-dns")
	switch {
	case err != nil:
		return nil, nil, err
	case dns != nil && dns.Spec.ClusterIP != "" && dns.Spec.ClusterIP != corev1.ClusterIPNone:
		in.DNSAddress = dns.Spec.ClusterIP
	}
	if err := readKeys(ctx, l, tenant, &in); err != nil {
		return nil, nil, err
	}
	if slices.Contains(in.Tenant.PriorityClasses, tenant.Spec.PriorityClassName) {
		if in.PriorityClass, err = engine.Get[*schedulingv1.PriorityClass](ctx, l.SuperReader(), "", tenant.Spec.PriorityClassName); err != nil {
			return nil, nil, err
		}
	}
	super, findings := podspec.Translate(in)
	isolated, err := isolation(ctx, l, tenant)
	if err != nil {
		return nil, nil, err
	}
	networkpolicy.Isolate(super, isolated)
	misplaced, err := placement(ctx, l, super.Spec.NodeName)
	return super, append(findings, misplaced...), err
}

// placement refuses a node, where the tenant names it, that its class does not offer.
func placement(ctx context.Context, l *engine.Link, name string) ([]translation.Finding, error) {
	if name == "" {
		return nil, nil
	}
	node, err := engine.Get[*corev1.Node](ctx, l.SuperReader(), "", name)
	if err != nil || (node != nil && l.Tenant().OffersNode(node.Labels)) {
		return nil, err
	}
	return []translation.Finding{translation.Refuse("spec.nodeName", "the class of the virtual cluster offers no node "+name)}, nil
}

// updatePod carries onto a copy of the super pod what may change in the life of a pod.
func updatePod(l *engine.Link, tenant, super *corev1.Pod) []translation.Finding {
	ctx, cancel := context.WithTimeout(context.Background(), cacheTimeout)
	defer cancel()
	// A read of a cache; it fails only while the program ends.
	if isolated, err := isolation(ctx, l, tenant); err == nil {
		networkpolicy.Isolate(super, isolated)
	}
	podspec.Update(l.Tenant(), tenant, super)
	return nil
}

// readKeys reads the names of variables that come from whole ConfigMaps and Secrets.
func readKeys(ctx context.Context, l *engine.Link, tenant *corev1.Pod, in *podspec.Input) error {
	in.ConfigMapKeys, in.SecretKeys = map[string][]string{}, map[string][]string{}
	references := podspec.ReferencesOf(tenant)
	for name := range references.EnvConfigMaps {
		configMap, err := engine.Get[*corev1.ConfigMap](ctx, l.TenantReader(), tenant.Namespace, name)
		if err != nil {
			return err
		}
		if configMap != nil {
			in.ConfigMapKeys[name] = slices.Collect(maps.Keys(configMap.Data))
		}
	}
	for name := range references.EnvSecrets {
		secret, err := engine.Get[*corev1.Secret](ctx, l.TenantReader(), tenant.Namespace, name)
		if err != nil {
			return err
		}
		if secret != nil {
			in.SecretKeys[name] = slices.Collect(maps.Keys(secret.Data))
		}
	}
	return nil
}
