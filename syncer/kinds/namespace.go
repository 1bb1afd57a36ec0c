package kinds

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	psaapi "k8s.io/pod-security-admission/api"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/podspec"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// namespaces go down when the first object in them does.
func namespaces(networks tenantnetwork.Networks) engine.Kind {
	return &engine.Down[*corev1.Namespace]{
		Name:     "namespaces",
		OnDemand: true,
		SuperKey: func(t translation.Tenant, _, name string) types.NamespacedName {
			return types.NamespacedName{Name: t.SuperNamespace(name)}
		},
		Metadata: namespaceMetadata,
		Translate: func(_ context.Context, l *engine.Link, _ *corev1.Namespace) (*corev1.Namespace, []translation.Finding, error) {
			return superNamespace(l.Tenant()), nil, nil
		},
		Finish: func(ctx context.Context, s *engine.Sync[*corev1.Namespace]) (time.Duration, error) {
			if s.Super.DeletionTimestamp != nil {
				return 0, nil
			}
			return 0, ensureFence(ctx, s.Link, networks, s.Tenant)
		},
		SuperChanged: func(l *engine.Link, _, super *corev1.Namespace, gone bool) {
			origin, ok := tenancy.OriginOf(super)
			switch {
			case !ok:
			case gone:
				// What waits for the namespace of an earlier namespace of that name to go.
				l.LookAgain(origin.Name)
			default:
				// Events in it may have been seen before it was known whose it is.
				enqueueEvents(l, super.Name, origin.Name)
			}
		},
	}
}

// namespaceMetadata carries labels under keys that only selectors of the tenant's
// pods look for; see translation.NamespaceLabelKey.
func namespaceMetadata(tenant *corev1.Namespace) (labels, annotations map[string]string, _ []translation.Finding) {
	labels = map[string]string{}
	for key, value := range tenant.Labels {
		labels[translation.NamespaceLabelKey(key)] = value
	}
	return labels, nil, nil
}

// superNamespace has the super cluster's own admission check once more what the
// translation of pods lets through.
func superNamespace(t translation.Tenant) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{
		psaapi.EnforceLevelLabel:   string(podspec.Level(t.PodSecurity)),
		psaapi.EnforceVersionLabel: "latest",
	}}}
}
