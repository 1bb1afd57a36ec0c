//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// endpointsByHand gives Services without a selector their endpoints by hand, in both
// forms: the tenant's clients reach its own pod, and in the super cluster, where a load
// balancer would look, stands that pod and not the other tenant's.
func endpointsByHand(t *testing.T, tn, other *tenant) {
	own, foreign := podAddress(t, tn, "db-0"), podAddress(t, other, "db-0")
	ctx := t.Context()
	for _, name := range []string{"by-endpoints", "by-slice"} {
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
		}
		if err := tn.client.Create(ctx, service); err != nil {
			t.Fatal(err)
		}
	}
	endpoints := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "by-endpoints"},
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: own}, {IP: foreign}},
			Ports:     []corev1.EndpointPort{{Name: "http", Port: 8080}},
		}},
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "by-hand", Labels: map[string]string{discoveryv1.LabelServiceName: "by-slice"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{own}}, {Addresses: []string{foreign}}},
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for _, object := range []client.Object{endpoints, slice} {
		if err := tn.client.Create(ctx, object); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "a warning of the foreign address", func(ctx context.Context) error {
			out, err := tn.tryKubectl(ctx, "events", "--types=Warning")
			if err == nil && !containsAll(out, []string{"IgnoredByPlatform", "/" + object.GetName()}) {
				err = fmt.Errorf("events:\n%s", out)
			}
			return err
		})
	}
	for _, name := range []string{"by-endpoints", "by-slice"} {
		eventually(t, time.Minute, "in the super cluster "+name+" leads to the tenant's pod alone", func(ctx context.Context) error {
			var list discoveryv1.EndpointSliceList
			of := client.MatchingLabels{discoveryv1.LabelServiceName: name}
			if err := super.client.List(ctx, &list, client.InNamespace(tn.SuperNamespace("default")), of); err != nil {
				return err
			}
			var addresses []string
			for _, slice := range list.Items {
				for _, endpoint := range slice.Endpoints {
					addresses = append(addresses, endpoint.Addresses...)
				}
			}
			if !slices.Equal(addresses, []string{own}) {
				return fmt.Errorf("it leads to %v, want %s", addresses, own)
			}
			return nil
		})
		// The tenant's own rules hold what the tenant wrote; the fence lets none of it
		// through to the other tenant.
		eventually(t, time.Minute, name+" answers inside of the tenant", func(ctx context.Context) error {
			out, err := tn.tryKubectl(ctx, "exec", "client", "--", "sh", "-c", "for i in 1 2 3 4 5 6; do timeout 5 wget -q -O - http://"+name+"/hostname; echo; done; true")
			if err == nil && !strings.Contains(out, "db-0") {
				err = fmt.Errorf("answers %q", out)
			}
			return err
		})
	}
	tn.kubectl(t, "delete", "service", "by-endpoints", "by-slice")
	eventually(t, time.Minute, "nothing of it is left in the super cluster", func(ctx context.Context) error {
		var list discoveryv1.EndpointSliceList
		if err := super.client.List(ctx, &list, client.InNamespace(tn.SuperNamespace("default")), client.HasLabels{tenancy.LabelTenant}); err != nil {
			return err
		}
		for _, slice := range list.Items {
			if strings.HasPrefix(slice.Labels[discoveryv1.LabelServiceName], "by-") {
				return fmt.Errorf("slice %s is left", slice.Name)
			}
		}
		return nil
	})
}

// podAddress is the address of a pod in the tenant's namespace default.
func podAddress(t *testing.T, tn *tenant, name string) string {
	t.Helper()
	var pod corev1.Pod
	if err := tn.client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &pod); err != nil {
		t.Fatal(err)
	}
	return pod.Status.PodIP
}
