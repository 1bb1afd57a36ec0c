package kinds

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// anywhere lets every address be an endpoint.
func anywhere(string) (*string, string) { return nil, "" }

// places are those of a platform in private networks, where the tenant has the pod
// 10.1.2.3 on node n1.
func places(t *testing.T) place {
	t.Helper()
	denied, err := tenantnetwork.ParseNetworks(tenantnetwork.DefaultDenied)
	if err != nil {
		t.Fatal(err)
	}
	return placeIn(tenantnetwork.Networks{Denied: denied}, func(address netip.Addr) (string, bool) {
		return "n1", address == netip.MustParseAddr("10.1.2.3")
	})
}

// An endpoint is outside of the platform or a pod of the tenant: another's pod, the
// platform and the node cannot be published through a load balancer.
func TestAddressesThatMayBeEndpoints(t *testing.T) {
	place := places(t)
	for address, want := range map[string]struct{ node, rule string }{
		"10.1.2.3": {"n1", ""}, "::ffff:10.1.2.3": {"n1", ""}, "203.0.113.5": {}, "2001:db8::1": {},
		"10.1.2.4": {"", ruleOthers}, "192.168.0.1": {"", ruleOthers}, "fd00::1": {"", ruleOthers},
		"127.0.0.1": {"", ruleNodeAddress}, "169.254.169.254": {"", ruleNodeAddress}, "::1": {"", ruleNodeAddress}, "fe80::1": {"", ruleNodeAddress},
		"::ffff:127.0.0.1": {"", ruleNodeAddress}, "0.0.0.0": {"", ruleNodeAddress}, "224.0.0.1": {"", ruleNodeAddress},
		"nonsense": {"", ruleNoAddress}, "": {"", ruleNoAddress},
	} {
		node, rule := place(address)
		if rule != want.rule || (node != nil) != (want.node != "") || (node != nil && *node != want.node) {
			t.Errorf("%s: node %v, rule %q", address, node, rule)
		}
	}
}

// The address of a pod that has ended may be another's by now.
func TestAddressesOfPods(t *testing.T) {
	pod := func(phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{tenancy.LabelTenant: "vc"}},
			Status:     corev1.PodStatus{Phase: phase, PodIPs: []corev1.PodIP{{IP: "10.1.2.3"}, {IP: "fd00:0::1"}, {IP: "odd"}}},
		}
	}
	if got := indexPodAddresses(pod(corev1.PodRunning)); !slices.Equal(got, []string{"vc/10.1.2.3", "vc/fd00::1"}) {
		t.Errorf("%q", got)
	}
	for _, phase := range []corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded} {
		if got := indexPodAddresses(pod(phase)); len(got) > 0 {
			t.Errorf("%s: %q", phase, got)
		}
	}
}

func TestTranslateEndpoints(t *testing.T) {
	claimed, node := "claimed", "n1"
	address := func(ip string) corev1.EndpointAddress {
		return corev1.EndpointAddress{IP: ip, Hostname: "h", NodeName: &claimed, TargetRef: &corev1.ObjectReference{Name: "x"}}
	}
	ports := []corev1.EndpointPort{{Port: 80}}
	in := &corev1.Endpoints{Subsets: []corev1.EndpointSubset{
		{Addresses: []corev1.EndpointAddress{address("10.1.2.3"), address("10.1.2.4")}, NotReadyAddresses: []corev1.EndpointAddress{address("203.0.113.5")}, Ports: ports},
		{Addresses: []corev1.EndpointAddress{address("127.0.0.1")}},
	}}
	before := in.DeepCopy()
	got, findings := translateEndpoints(places(t), in)
	want := []corev1.EndpointSubset{{
		Addresses:         []corev1.EndpointAddress{{IP: "10.1.2.3", Hostname: "h", NodeName: &node}},
		NotReadyAddresses: []corev1.EndpointAddress{{IP: "203.0.113.5", Hostname: "h"}}, Ports: ports,
	}}
	if diff := cmp.Diff(want, got.Subsets); diff != "" {
		t.Error(diff)
	}
	told := "subsets[0].addresses[1].ip: " + ruleOthers + "; subsets[1].addresses[0].ip: " + ruleNodeAddress
	if summary := translation.Summary(findings, false); summary != told || translation.Refused(findings) {
		t.Errorf("the tenant is told %q", summary)
	}
	// The ancestor blanked its inputs (virtualcluster.md 2.10).
	if diff := cmp.Diff(before, in); diff != "" {
		t.Errorf("the input was changed: %s", diff)
	}
}

func TestTranslateSlice(t *testing.T) {
	if paths := sliceFields.Unlisted(); len(paths) > 0 {
		t.Errorf("no rule for %v", paths)
	}
	claimed, node, ready, zone := "claimed", "n1", true, "z"
	in := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: "staff", "tier": "a"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.1.2.3"}, NodeName: &claimed, Zone: &zone, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
			{Addresses: []string{"10.1.2.4", "203.0.113.5"}, Hostname: &claimed, TargetRef: &corev1.ObjectReference{Name: "x"}},
			{Addresses: []string{"127.0.0.1"}},
		},
	}
	before := in.DeepCopy()
	got, findings := translateSlice(places(t), in)
	want := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Labels: map[string]string{discoveryv1.LabelManagedBy: engine.SliceManager}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.1.2.3"}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
			{Addresses: []string{"203.0.113.5"}, Hostname: &claimed},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if told := "endpoints[1].addresses[0]: " + ruleOthers + "; endpoints[2].addresses[0]: " + ruleNodeAddress; translation.Summary(findings, false) != told {
		t.Errorf("the tenant is told %v", findings)
	}
	if diff := cmp.Diff(before, in); diff != "" {
		t.Errorf("the input was changed: %s", diff)
	}
	labels, _, _ := endpointSlices(tenantnetwork.Networks{}).(*engine.Down[*discoveryv1.EndpointSlice]).Metadata(in)
	if diff := cmp.Diff(map[string]string{discoveryv1.LabelServiceName: "web", "tier": "a"}, labels); diff != "" {
		t.Error(diff)
	}
}

func TestSlicesOfControllersStay(t *testing.T) {
	for manager, manual := range map[string]bool{
		"": true, "staff": true, "endpointslice-controller.k8s.io": false, "endpointslicemirroring-controller.k8s.io": false,
	} {
		slice := &discoveryv1.EndpointSlice{}
		if manager != "" {
			slice.Labels = map[string]string{discoveryv1.LabelManagedBy: manager}
		}
		if manualSlice(slice) != manual {
			t.Errorf("managed by %q: manual is %v", manager, !manual)
		}
	}
}
