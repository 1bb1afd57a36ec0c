package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/bulkhead-dev/bulkhead/fence/nft"
	"github.com/bulkhead-dev/bulkhead/fence/policy"
	"github.com/bulkhead-dev/bulkhead/fence/rbac"
	"github.com/bulkhead-dev/bulkhead/internal/sandboxaddress"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

const (
	nodeName = "node-1"
	patience = 3 * time.Minute
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	os.Exit(m.Run())
}

// node is the network namespace of a node without pods' interfaces, and its Node.
type node struct {
	t       *testing.T
	cluster *testenv.Cluster
	ns      netns.NsHandle
	config  *rest.Config
	metrics string
	socket  string
}

func newNode(t *testing.T) *node {
	t.Helper()
	ctx := t.Context()
	n := &node{t: t, cluster: testenv.New(t, testenv.Options{})}
	func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		own, err := netns.Get()
		check(t, err)
		defer own.Close()
		n.ns, err = netns.New()
		check(t, err)
		check(t, netns.Set(own))
	}()
	t.Cleanup(func() { n.ns.Close() })
	n.socket = filepath.Join(t.TempDir(), "sandboxes", "s")
	for _, object := range []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}, Spec: corev1.NodeSpec{PodCIDR: "10.78.1.0/24", PodCIDRs: []string{"10.78.1.0/24"}}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bulkhead-system"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "default"}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "fence"}, Rules: rbac.SuperRules()},
	} {
		check(t, n.cluster.Client.Create(ctx, object))
	}
	n.config = rest.AnonymousClientConfig(n.cluster.Config)
	n.config.BearerToken = n.token("fence", "fence")
	return n
}

// token is that of a new ServiceAccount with a ClusterRole.
func (n *node) token(account, role string) string {
	n.t.Helper()
	ctx := n.t.Context()
	check(n.t, n.cluster.Client.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "bulkhead-system", Name: account}}))
	check(n.t, n.cluster.Client.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "bulkhead-system", Name: account}},
	}))
	token, err := kubernetes.NewForConfigOrDie(n.cluster.Config).CoreV1().ServiceAccounts("bulkhead-system").CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	check(n.t, err)
	return token.Status.Token
}

// run runs the program as the chart does, with the rights that it lists.
func (n *node) run(enforce bool) (stop func()) {
	n.t.Helper()
	o := options{nodeName: nodeName, verifyInterval: time.Second, enforce: enforce, namespace: &n.ns, sandboxSocket: n.socket}
	o.metricsAddress, o.healthAddress = testenv.FreeAddress(n.t), testenv.FreeAddress(n.t)
	n.metrics = o.metricsAddress
	check(n.t, o.check(nil))
	var a *agent
	// A new apiserver grants discovery a moment after it is ready.
	eventually(n.t, "connecting", func() (err error) {
		a, err = newAgent(n.config, o)
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.manager.Start(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			n.t.Errorf("the fence ended: %v", err)
		}
		for _, collector := range a.collectors {
			metrics.Registry.Unregister(collector)
		}
	}
	n.t.Cleanup(stop)
	eventually(n.t, "readyz", func() error {
		response, err := http.Get("http://" + o.healthAddress + "/readyz")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
	return stop
}

func (n *node) pod(name, on, address string) *corev1.Pod {
	n.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: on, Containers: []corev1.Container{{Name: "main", Image: "main", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}},
	}
	check(n.t, n.cluster.Client.Create(n.t.Context(), pod))
	if address == "" {
		return pod
	}
	testenv.ChangeStatus(n.t, n.cluster.Client, pod, func() {
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}}
	})
	return pod
}

// elements reads a set from the kernel.
func (n *node) elements(name string) ([]string, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(n.ns)))
	if err != nil {
		return nil, err
	}
	of := &nftables.Table{Family: nftables.TableFamilyINet, Name: nft.TableName}
	elements, err := conn.GetSetElements(&nftables.Set{Table: of, Name: name})
	var addresses []string
	for _, e := range elements {
		address, _ := netip.AddrFromSlice(e.Key)
		addresses = append(addresses, address.String())
	}
	slices.Sort(addresses)
	return addresses, err
}

func (n *node) has(set string, want ...string) {
	n.t.Helper()
	eventually(n.t, "elements of "+set, func() error {
		got, err := n.elements(set)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%v, want %v", got, want)
		}
		return err
	})
}

// From what the super cluster says to what the kernel has, over the life of pods and
// of the program.
func TestAgent(t *testing.T) {
	ctx := t.Context()
	n := newNode(t)
	first := n.pod("first", nodeName, "10.78.1.5")
	n.pod("remote", "node-2", "10.78.2.5")
	deny := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "peers"},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}},
		},
	}
	check(t, n.cluster.Client.Create(ctx, deny))
	stop := n.run(true)
	n.has("from4", "10.78.1.5")
	peers := n.peers()
	n.has(peers, "10.78.1.5", "10.78.2.5")

	second := n.pod("second", nodeName, "10.78.1.6")
	n.has("to4", "10.78.1.5", "10.78.1.6")
	n.has(peers, "10.78.1.5", "10.78.1.6", "10.78.2.5")
	// A pod that has ended has no address any more.
	testenv.ChangeStatus(t, n.cluster.Client, second, func() { second.Status.Phase = corev1.PodSucceeded })
	n.has("to4", "10.78.1.5")
	n.has(peers, "10.78.1.5", "10.78.2.5")

	// Somebody removes the rules.
	check(t, nft.New(int(n.ns)).Remove())
	n.has("to4", "10.78.1.5")

	n.announced()
	n.checkMetrics()

	// The rules outlive the program, and the next one finds what has changed.
	stop()
	if got, err := n.elements("to4"); err != nil || !slices.Equal(got, []string{"10.78.1.5"}) {
		t.Errorf("after its end: %v, %v", got, err)
	}
	zero := int64(0)
	check(t, n.cluster.Client.Delete(ctx, first, &client.DeleteOptions{GracePeriodSeconds: &zero}))
	n.pod("third", nodeName, "10.78.1.7")
	stop = n.run(true)
	n.has("to4", "10.78.1.7")
	check(t, n.cluster.Client.Delete(ctx, deny))
	eventually(t, "the policy's sets to go", func() error {
		if _, err := n.elements(peers); err == nil {
			return errors.New("they are there")
		}
		return nil
	})
	stop()

	// Opened before it is uninstalled.
	stop = n.run(false)
	if _, err := n.elements("to4"); err == nil {
		t.Error("the rules are still there")
	}
	stop()
}

// announced is a pod whose sandbox is there before the super cluster knows of it.
func (n *node) announced() {
	n.t.Helper()
	pod := n.pod("early", nodeName, "")
	sandbox := sandboxaddress.Sandbox{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Addresses: []netip.Addr{netip.MustParseAddr("10.78.1.8")}}
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	check(n.t, sandboxaddress.Announce(ctx, n.socket, sandbox))
	if got, err := n.elements("to4"); err != nil || !slices.Contains(got, "10.78.1.8") {
		n.t.Errorf("once it is answered: %v, %v", got, err)
	}
	// Somebody else's UID is not this pod.
	wrong := sandbox
	wrong.UID = "another"
	short, end := context.WithTimeout(ctx, 300*time.Millisecond)
	defer end()
	if err := sandboxaddress.Announce(short, n.socket, wrong); err == nil {
		n.t.Error("a pod that is not there was fenced")
	}
	// The super cluster's word comes, and then another one's.
	for _, address := range []string{"10.78.1.8", "10.78.1.9"} {
		testenv.ChangeStatus(n.t, n.cluster.Client, pod, func() {
			pod.Status.PodIP, pod.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
		})
		n.has("to4", "10.78.1.5", address)
	}
	check(n.t, n.cluster.Client.Delete(ctx, pod, client.GracePeriodSeconds(0)))
	n.has("to4", "10.78.1.5")
}

// peers is the name of the one set of peers there is.
func (n *node) peers() string {
	n.t.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(int(n.ns)))
	check(n.t, err)
	sets, err := conn.GetSets(&nftables.Table{Family: nftables.TableFamilyINet, Name: nft.TableName})
	check(n.t, err)
	for _, set := range sets {
		if strings.HasPrefix(set.Name, "peers-") && strings.HasSuffix(set.Name, "4") && set.KeyType.Bytes == 4 {
			return set.Name
		}
	}
	n.t.Fatalf("there is none")
	return ""
}

func (n *node) checkMetrics() {
	n.t.Helper()
	get := func(token string) (int, string) {
		request, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, "https://"+n.metrics+"/metrics", nil)
		check(n.t, err)
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		// The certificate is self-made: what counts here is who is let in.
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
		response, err := c.Do(request)
		check(n.t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		check(n.t, err)
		return response.StatusCode, string(body)
	}
	if status, _ := get(""); status != http.StatusUnauthorized {
		n.t.Errorf("without a token: %d", status)
	}
	if status, _ := get(n.config.BearerToken); status != http.StatusForbidden {
		n.t.Errorf("with a token that may not: %d", status)
	}
	check(n.t, n.cluster.Client.Create(n.t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}}))
	token := n.token("reader", "reader")
	eventually(n.t, "metrics", func() error {
		status, body := get(token)
		if status != http.StatusOK {
			return fmt.Errorf("status %d", status)
		}
		for _, want := range []string{"bulkhead_fence_pods 1", "bulkhead_fence_policies 1", `bulkhead_fence_dropped_packets_total{reason="spoofed"} 0`, "bulkhead_fence_repairs_total 1"} {
			if !strings.Contains(body, want) {
				return fmt.Errorf("no %s", want)
			}
		}
		return nil
	})
}

// What of a policy is not understood is told to its author, once, if it concerns a
// pod of this node.
func TestUnsupportedPolicy(t *testing.T) {
	recorder := events.NewFakeRecorder(8)
	a := &agent{recorder: recorder, model: policy.New(), problems: map[client.ObjectKey]*problem{}}
	bad := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "bad", UID: "1"},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress", "Sideways"}},
	}
	a.setPolicy(bad)
	a.tellProblems()
	select {
	case event := <-recorder.Events:
		t.Errorf("of a policy that selects nothing here: %s", event)
	default:
	}
	a.model.SetPod(policy.Pod{NamespacedName: client.ObjectKey{Namespace: "web", Name: "p"}, Addresses: []netip.Addr{netip.MustParseAddr("10.78.1.5")}, Local: true})
	a.tellProblems()
	a.setPolicy(bad)
	a.tellProblems()
	if event := <-recorder.Events; !strings.Contains(event, "NotEnforced") || !strings.Contains(event, `spec.policyTypes: "Sideways" is not known`) {
		t.Errorf("event %s", event)
	}
	if len(recorder.Events) > 0 {
		t.Error("it is told twice")
	}
}

func TestOptions(t *testing.T) {
	for line, complaint := range map[string]string{
		"--node-name=n": "",
		"--node-name=n --pod-networks=10.78.1.0/24,fd78::/64": "",
		"--node-name=": "--node-name",
		"--node-name=n --health-probe-bind-address=:10562": "--health-probe-bind-address",
		"--node-name=n --pod-networks=10.78.1.5/24":        "--pod-networks",
		"--node-name=n --verify-interval=1ms":              "--verify-interval",
		"--node-name=n more":                               "unexpected arguments",
	} {
		var o options
		flags := flag.NewFlagSet("fence", flag.ContinueOnError)
		o.bind(flags)
		check(t, flags.Parse(strings.Fields(line)))
		err := o.check(flags.Args())
		if (complaint == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), complaint)) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestCleanupTakesNoArguments(t *testing.T) {
	if err := cleanup([]string{"now"}); err == nil {
		t.Error("it was taken")
	}
}

func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		last = condition()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s: %v", what, last)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
