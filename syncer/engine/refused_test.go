package engine

import (
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Found by the churn test: while the super cluster's API server starts it knows no
// rights yet, and tenants were told in events what the syncer's user may not do.
func TestRefusesObject(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	terminated := apierrors.NewForbidden(pods, "web", errors.New("unable to create new content in namespace a because it is being terminated"))
	terminated.ErrStatus.Details.Causes = append(terminated.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"quota":                 {apierrors.NewForbidden(pods, "web", errors.New("exceeded quota: small")), true},
		"admission":             {apierrors.NewForbidden(pods, "web", errors.New(`violates PodSecurity "baseline:latest": host namespaces`)), true},
		"invalid":               {apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "web", nil), true},
		"bad":                   {apierrors.NewBadRequest("no"), true},
		"the syncer may not":    {apierrors.NewForbidden(pods, "", errors.New(`User "system:serviceaccount:a:syncer" cannot create resource "pods" in API group "" in the namespace "b"`)), false},
		"namespace terminating": {terminated, false},
		"conflict":              {apierrors.NewConflict(pods, "web", nil), false},
		"unreachable":           {errors.New("connection refused"), false},
	} {
		if got := RefusesObject(fmt.Errorf("creating pod web: %w", tc.err)); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
