package kinds

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/randfill"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

func demo() translation.Tenant {
	return translation.Tenant{Tenant: tenancy.Tenant{UID: "vc-uid", Namespace: "team", Name: "demo"}, PodSecurity: "baseline", ClusterDomain: "cluster.local", DNSAddress: "10.96.0.10"}
}

func TestAllKindsOnce(t *testing.T) {
	want := []string{
		"namespaces", "pods", "services", "endpoints", "endpointslices", "secrets", "configmaps", "serviceaccounts", "persistentvolumeclaims", "networkpolicies",
		"nodes", "leases", "persistentvolumes", "storageclasses", "runtimeclasses", "priorityclasses", "ingressclasses", "events",
	}
	var got []string
	for _, kind := range All(tenantnetwork.Networks{}) {
		got = append(got, kind.Resource())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestServiceFieldsHaveRules(t *testing.T) {
	if paths := serviceFields.Unlisted(); len(paths) > 0 {
		t.Errorf("no rule for %v", paths)
	}
	if paths := claimFields.Unlisted(); len(paths) > 0 {
		t.Errorf("no rule for %v", paths)
	}
}

func TestTranslateService(t *testing.T) {
	local := corev1.ServiceExternalTrafficPolicyLocal
	port := corev1.ServicePort{Name: "http", Port: 80, NodePort: 30080, Protocol: corev1.ProtocolTCP}
	plain := corev1.ServicePort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}
	selector := map[string]string{"app": "a"}
	annotations := map[string]string{tenancy.AnnotationClusterIPs: "10.96.1.1,fd00::1"}
	addresses := []string{"10.96.1.1", "fd00::1"}
	for name, tc := range map[string]struct {
		in       corev1.ServiceSpec
		want     *corev1.Service
		findings []string
	}{
		"cluster IP": {
			corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.1.1", ClusterIPs: addresses, Ports: []corev1.ServicePort{plain}, Selector: selector},
			&corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None", Ports: []corev1.ServicePort{plain}, Selector: selector}},
			nil,
		},
		"node port is the tenant's own": {
			corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIPs: addresses, Ports: []corev1.ServicePort{port}, Selector: selector, ExternalTrafficPolicy: local},
			&corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None", Ports: []corev1.ServicePort{plain}, Selector: selector}},
			nil,
		},
		"load balancer is real": {
			corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: addresses, Ports: []corev1.ServicePort{port}, ExternalTrafficPolicy: local, LoadBalancerSourceRanges: []string{"10.0.0.0/8"}},
			&corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{plain}, ExternalTrafficPolicy: local, LoadBalancerSourceRanges: []string{"10.0.0.0/8"}}},
			nil,
		},
		"addresses outside (CVE-2020-8554)": {
			corev1.ServiceSpec{ExternalIPs: []string{"8.8.8.8"}, LoadBalancerIP: "1.1.1.1"},
			&corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None"}},
			[]string{"spec.externalIPs: " + ruleExternalIPs, "spec.loadBalancerIP: " + ruleExternalIPs},
		},
	} {
		in := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"metallb.io/address-pool": "x"}}, Spec: tc.in}
		got, findings := translateService(in)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		var texts []string
		for _, finding := range findings {
			texts = append(texts, finding.String())
		}
		if diff := cmp.Diff(tc.findings, texts); diff != "" {
			t.Errorf("%s: findings %s", name, diff)
		}
	}
}

func TestServicesThatStay(t *testing.T) {
	if serviceGoesDown(&corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}}) ||
		serviceGoesDown(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}}) {
		t.Error("a Service goes down that must not")
	}
	if !serviceGoesDown(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "kubernetes"}}) {
		t.Error("an ordinary Service named kubernetes stays")
	}
}

func TestMergeServiceKeepsWhatTheSuperClusterAllotted(t *testing.T) {
	super := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.9", HealthCheckNodePort: 31000, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30001}}}}
	mergeService(super, &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}, {Port: 81}}, Selector: map[string]string{"a": "b"}}})
	want := corev1.ServiceSpec{ClusterIP: "10.0.0.9", HealthCheckNodePort: 31000, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30001}, {Port: 81}}, Selector: map[string]string{"a": "b"}}
	if diff := cmp.Diff(want, super.Spec); diff != "" {
		t.Error(diff)
	}
}

func TestReplaceService(t *testing.T) {
	one := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Selector: map[string]string{"a": "b"}}}
	for _, other := range []*corev1.Service{
		{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"a": "b"}}},
		{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP}},
	} {
		if !replaceService(one, other) || replaceService(one, one) || replaceService(other, other) {
			t.Errorf("%+v", other)
		}
	}
}

func TestTranslateSecret(t *testing.T) {
	yes := true
	in := &corev1.Secret{Type: corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"token": []byte("t")}, Immutable: &yes}
	want := &corev1.Secret{Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"token": []byte("t")}, Immutable: &yes}
	if diff := cmp.Diff(want, translateSecret(in)); diff != "" {
		t.Error(diff)
	}
	if got := translateSecret(&corev1.Secret{Type: corev1.SecretTypeTLS}); got.Type != corev1.SecretTypeTLS {
		t.Error(got.Type)
	}
}

func TestTranslateServiceAccount(t *testing.T) {
	no := false
	in := &corev1.ServiceAccount{ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}, Secrets: []corev1.ObjectReference{{Name: "token"}}}
	want := &corev1.ServiceAccount{ImagePullSecrets: in.ImagePullSecrets, AutomountServiceAccountToken: &no}
	if diff := cmp.Diff(want, translateServiceAccount(in)); diff != "" {
		t.Error(diff)
	}
}

func TestTranslateClaim(t *testing.T) {
	fast, empty := "fast", ""
	size := corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}
	in := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &fast, VolumeName: "pv-of-the-tenant", Resources: size, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}}}
	got, findings := translateClaim(in)
	want := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &fast, Resources: size, AccessModes: in.Spec.AccessModes}}
	if diff := cmp.Diff(want, got); diff != "" || len(findings) > 0 {
		t.Errorf("%v %s", findings, diff)
	}
	for name, spec := range map[string]corev1.PersistentVolumeClaimSpec{
		"no class":    {},
		"empty class": {StorageClassName: &empty},
		"selector":    {StorageClassName: &fast, Selector: &metav1.LabelSelector{}},
		"data source": {StorageClassName: &fast, DataSource: &corev1.TypedLocalObjectReference{}},
	} {
		if _, findings := translateClaim(&corev1.PersistentVolumeClaim{Spec: spec}); !translation.Refused(findings) {
			t.Errorf("%s goes down", name)
		}
	}
}

func TestMergeClaimGrowsOnly(t *testing.T) {
	claim := func(size string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}}}
	}
	for _, tc := range [][3]string{{"1Gi", "2Gi", "2Gi"}, {"2Gi", "1Gi", "2Gi"}, {"1Gi", "1024Mi", "1Gi"}} {
		super := claim(tc[0])
		mergeClaim(super, claim(tc[1]))
		if got := super.Spec.Resources.Requests[corev1.ResourceStorage]; got.Cmp(resource.MustParse(tc[2])) != 0 {
			t.Errorf("%v became %s", tc, got.String())
		}
	}
}

// The tenant sees its claim bound only when its own controller has bound it (the
// ancestor showed Bound for what was not: virtualcluster.md 7, 13).
func TestClaimStatus(t *testing.T) {
	super := &corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{
		Phase: corev1.ClaimBound, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")},
		Conditions: []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimResizing, Message: "in " + demo().SuperNamespace("web")}},
	}}
	message := translation.NewMessage(demo(), "web", "", "")
	pending := &corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}}
	claimStatus(message, super, pending)
	if pending.Status.Capacity != nil || pending.Status.Phase != corev1.ClaimPending {
		t.Errorf("status %+v", pending.Status)
	}
	bound := &corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	claimStatus(message, super, bound)
	if size := bound.Status.Capacity[corev1.ResourceStorage]; size.String() != "2Gi" || bound.Status.Conditions[0].Message != "in web" {
		t.Errorf("status %+v", bound.Status)
	}
}

func TestTranslateVolume(t *testing.T) {
	super := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-1", UID: "pv-uid", Annotations: map[string]string{"secret": "x"}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, StorageClassName: "fast",
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete, MountOptions: []string{"ro"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/volumes/x"}},
			ClaimRef:               &corev1.ObjectReference{Namespace: "super", Name: "data", UID: "super-uid"},
		},
	}
	claim := &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "web", Name: "data", UID: "claim-uid"}
	want := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annotationProvisionedBy: tenancy.OpaqueDriver}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: super.Spec.Capacity, StorageClassName: "fast", PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete, ClaimRef: claim,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: tenancy.OpaqueDriver, VolumeHandle: "pv-uid"}},
		},
	}
	if diff := cmp.Diff(want, translateVolume(super, claim)); diff != "" {
		t.Error(diff)
	}
}

func TestTranslateStorageClass(t *testing.T) {
	yes, wait := true, storagev1.VolumeBindingWaitForFirstConsumer
	policy := corev1.PersistentVolumeReclaimDelete
	super := &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: "fast", Annotations: map[string]string{annotationDefaultClass: "true", "x": "y"}},
		Provisioner: "ebs.csi.aws.com", Parameters: map[string]string{"key": "secret"}, AllowVolumeExpansion: &yes, VolumeBindingMode: &wait,
	}
	want := &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Annotations: map[string]string{annotationDefaultClass: "true"}},
		Provisioner: tenancy.OpaqueDriver, AllowVolumeExpansion: &yes, VolumeBindingMode: &wait, ReclaimPolicy: &policy,
	}
	if diff := cmp.Diff(want, translateStorageClass(super)); diff != "" {
		t.Error(diff)
	}
}

func TestVirtualNode(t *testing.T) {
	super := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "z", "owner": "x"}, Annotations: map[string]string{"a": "b"}},
		// A cordoned node is one for tenants too, and the cache's object stays as it is
		// (the ancestor failed in both: virtualcluster.md 2.6).
		Spec: corev1.NodeSpec{Unschedulable: true, ProviderID: "aws:///i-1", Taints: []corev1.Taint{{Key: "dedicated", Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, {Type: corev1.NodeExternalIP, Address: "1.2.3.4"}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: "KernelDeadlock", Status: corev1.ConditionFalse}},
			NodeInfo:   corev1.NodeSystemInfo{MachineID: "m", KernelVersion: "6.1", KubeletVersion: "v1.36.3"},
			Images:     []corev1.ContainerImage{{Names: []string{"other-tenants:1"}}},
		},
	}
	before := super.DeepCopy()
	want := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "z"}},
		Spec:       corev1.NodeSpec{Unschedulable: true, Taints: []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{
			Addresses: super.Status.Addresses[:1], Conditions: super.Status.Conditions[:1],
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 10550}},
			NodeInfo:        corev1.NodeSystemInfo{KernelVersion: "6.1", KubeletVersion: "v1.36.3"},
		},
	}
	if diff := cmp.Diff(want, virtualNode(super, false)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, super); diff != "" {
		t.Errorf("the input was changed: %s", diff)
	}
}

// The nodes that a class offers are the tenant's to tolerate.
func TestTaintsOfOfferedNodes(t *testing.T) {
	dedicated := corev1.Taint{Key: "dedicated", Value: "tenants", Effect: corev1.TaintEffectNoSchedule}
	cordon := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	for name, tc := range map[string]struct {
		spec    corev1.NodeSpec
		offered bool
		want    []corev1.Taint
	}{
		"on demand":            {corev1.NodeSpec{Taints: []corev1.Taint{dedicated}}, false, nil},
		"on demand, cordoned":  {corev1.NodeSpec{Taints: []corev1.Taint{dedicated, cordon}, Unschedulable: true}, false, []corev1.Taint{cordon}},
		"offered":              {corev1.NodeSpec{Taints: []corev1.Taint{dedicated}}, true, []corev1.Taint{dedicated}},
		"offered, cordoned":    {corev1.NodeSpec{Taints: []corev1.Taint{dedicated}, Unschedulable: true}, true, []corev1.Taint{dedicated, cordon}},
		"offered, and tainted": {corev1.NodeSpec{Taints: []corev1.Taint{cordon}, Unschedulable: true}, true, []corev1.Taint{cordon}},
	} {
		got := virtualNode(&corev1.Node{Spec: tc.spec}, tc.offered)
		if diff := cmp.Diff(tc.want, got.Spec.Taints); diff != "" || got.Spec.Unschedulable != tc.spec.Unschedulable {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// The ancestor wrote every heartbeat of every node into every tenant's cluster.
func TestWhatConcernsTenants(t *testing.T) {
	node := func(edit func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"pool": "a"}},
			Status: corev1.NodeStatus{
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Unix(100, 0)}},
				Images:     []corev1.ContainerImage{{Names: []string{"a"}}},
			},
		}
		edit(n)
		return n
	}
	for name, tc := range map[string]struct {
		edit func(*corev1.Node)
		same bool
	}{
		"a heartbeat":      {func(n *corev1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Unix(200, 0) }, true},
		"an image":         {func(n *corev1.Node) { n.Status.Images = nil }, true},
		"an annotation":    {func(n *corev1.Node) { n.Annotations = map[string]string{"a": "b"} }, true},
		"a selected label": {func(n *corev1.Node) { n.Labels["pool"] = "b" }, false},
		"a condition":      {func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }, false},
		"a taint":          {func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "a"}} }, false},
		"cordoned":         {func(n *corev1.Node) { n.Spec.Unschedulable = true }, false},
		"an extended share": {func(n *corev1.Node) {
			n.Status.Capacity = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
		}, false},
	} {
		if got := sameNode(node(func(*corev1.Node) {}), node(tc.edit)); got != tc.same {
			t.Errorf("%s: the same for tenants %v", name, got)
		}
	}
}

func TestLeasesFollowSlowly(t *testing.T) {
	at := func(seconds int64) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Unix(seconds, 5000)}}}
	}
	changes := 0
	for second := int64(1_000_000); second < 1_000_000+1200; second += 10 {
		if before, after := renewed(at(second)), renewed(at(second+10)); !before.Equal(after) {
			changes++
			if behind := time.Unix(second+10, 5000).Sub(after); behind < 0 || behind > leaseWindow {
				t.Errorf("renewed at %v, shown as %v", second+10, after)
			}
		}
	}
	if changes != 10 {
		t.Errorf("%d renewals in 20 minutes", changes)
	}
	lease := virtualLease(at(1_000_000), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "virtual"}})
	if *lease.Spec.HolderIdentity != "n1" || lease.OwnerReferences[0].UID != "virtual" || *lease.Spec.LeaseDurationSeconds < int32(2*leaseWindow.Seconds()) {
		t.Errorf("%+v", lease)
	}
	if empty := virtualLease(&coordinationv1.Lease{}, &corev1.Node{}); empty.Spec.RenewTime != nil {
		t.Errorf("never renewed, shown as %v", empty.Spec.RenewTime)
	}
}

func TestHeartbeatsAloneAreNoChange(t *testing.T) {
	first, second := metav1.Unix(100, 0), metav1.Unix(200, 0)
	before := []corev1.NodeCondition{{Type: "Ready", Status: "True", LastHeartbeatTime: first}, {Type: "DiskPressure", Status: "False", LastHeartbeatTime: first}}
	after := []corev1.NodeCondition{{Type: "Ready", Status: "True", LastHeartbeatTime: second}, {Type: "DiskPressure", Status: "True", LastHeartbeatTime: second}}
	got := withoutHeartbeats(before, after)
	if !got[0].LastHeartbeatTime.Equal(&first) || !got[1].LastHeartbeatTime.Equal(&second) {
		t.Errorf("%+v", got)
	}
}

func TestNamespace(t *testing.T) {
	// A label that would exempt the namespace from a policy has no effect in the super cluster.
	labels, _, _ := namespaceMetadata(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged", "team": "a"}}})
	want := map[string]string{translation.NamespaceLabelKey("pod-security.kubernetes.io/enforce"): "privileged", translation.NamespaceLabelKey("team"): "a"}
	if diff := cmp.Diff(want, labels); diff != "" {
		t.Error(diff)
	}
	if level := superNamespace(demo()).Labels["pod-security.kubernetes.io/enforce"]; level != "baseline" {
		t.Error(level)
	}
}

func TestTranslateEvent(t *testing.T) {
	super := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "front.1", Namespace: "super"},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: "super", Name: "front", UID: "super-uid", ResourceVersion: "7", FieldPath: "spec.containers{c}"},
		Reason:         "Scheduled", Message: "assigned " + demo().SuperNamespace("web") + "/front", Count: 2,
	}
	origin := tenancy.Origin{Tenant: "vc-uid", Namespace: "web", Name: "front", UID: "pod-uid"}
	want := &corev1.Event{
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: "web", Name: "front", UID: "pod-uid", FieldPath: "spec.containers{c}"},
		Reason:         "Scheduled", Message: "assigned web/front", Count: 2,
	}
	if diff := cmp.Diff(want, translateEvent(translation.NewMessage(demo(), "web", "super-uid", "pod-uid"), origin, super)); diff != "" {
		t.Error(diff)
	}
}

func TestPodStatus(t *testing.T) {
	tenant := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "front", UID: "t", Generation: 3}, Spec: corev1.PodSpec{
		ReadinessGates: []corev1.PodReadinessGate{{ConditionType: "gate"}}, Containers: []corev1.Container{{Name: "c"}},
	}}
	tenant.Status.Conditions = []corev1.PodCondition{{Type: "gate", Status: corev1.ConditionTrue}}
	super := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "s", Generation: 5}}
	super.Status = corev1.PodStatus{
		ObservedGeneration: 5, Phase: corev1.PodPending, PodIP: "10.1.1.1", NominatedNodeName: "secret-node",
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "no node for " + demo().SuperNamespace("web") + "/front", ObservedGeneration: 4},
			{Type: "gate", Status: corev1.ConditionFalse},
		},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Message: "pod=front_" + demo().SuperNamespace("web") + "(s)"}}}, {Name: "injected"}},
	}
	before := super.DeepCopy()
	upPodStatus(translation.NewMessage(demo(), "web", "s", "t"), super, tenant)
	want := corev1.PodStatus{
		ObservedGeneration: 3, Phase: corev1.PodPending, PodIP: "10.1.1.1",
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "no node for web/front"},
			{Type: "gate", Status: corev1.ConditionTrue},
		},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Message: "pod=front_web(t)"}}}},
	}
	if diff := cmp.Diff(want, tenant.Status); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, super); diff != "" {
		t.Errorf("the input was changed: %s", diff)
	}
	if !mergeGates(tenant, super) || super.Status.Conditions[1].Status != corev1.ConditionTrue || mergeGates(tenant, super) {
		t.Errorf("gates %+v", super.Status.Conditions)
	}
}

// Every translation takes whatever the API could hold, leaves its input alone and
// shares no memory with it.
func FuzzTranslations(f *testing.F) {
	f.Add([]byte("bytes that become objects"))
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzz(t, data, func(in *corev1.Service) any {
			out, _ := translateService(in)
			mergeService(in.DeepCopy(), out)
			return out
		})
		fuzz(t, data, func(in *corev1.Endpoints) any { out, _ := translateEndpoints(anywhere, in); return out })
		fuzz(t, data, func(in *discoveryv1.EndpointSlice) any { out, _ := translateSlice(anywhere, in); return out })
		fuzz(t, data, func(in *corev1.Secret) any { return translateSecret(in) })
		fuzz(t, data, func(in *corev1.ServiceAccount) any { return translateServiceAccount(in) })
		fuzz(t, data, func(in *corev1.PersistentVolumeClaim) any {
			out, _ := translateClaim(in)
			mergeClaim(in.DeepCopy(), out)
			return out
		})
		fuzz(t, data, func(in *corev1.PersistentVolume) any { return translateVolume(in, nil) })
		fuzz(t, data, func(in *storagev1.StorageClass) any { return translateStorageClass(in) })
		fuzz(t, data, func(in *corev1.Node) any { return virtualNode(in, true) })
		fuzz(t, data, func(in *coordinationv1.Lease) any { return virtualLease(in, &corev1.Node{}) })
		fuzz(t, data, func(in *corev1.Event) any {
			return translateEvent(translation.NewMessage(demo(), "web", "", ""), tenancy.Origin{}, in)
		})
		fuzz(t, data, func(in *corev1.Pod) any {
			tenant := in.DeepCopy()
			upPodStatus(translation.NewMessage(demo(), "web", "", ""), in, tenant)
			mergeGates(tenant, in.DeepCopy())
			return tenant
		})
	})
}

func fuzz[T interface {
	*E
	DeepCopy() T
}, E any](t *testing.T, data []byte, translate func(T) any) {
	t.Helper()
	in := T(new(E))
	randfill.NewFromGoFuzz(data).NilChance(0.3).NumElements(0, 3).MaxDepth(10).Fill(in)
	before := in.DeepCopy()
	translate(in)
	if !reflect.DeepEqual(before, in) {
		t.Errorf("the input %T was changed: %s", in, cmp.Diff(before, in))
	}
}
