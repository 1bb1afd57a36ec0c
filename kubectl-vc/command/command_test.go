package command

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

var update = flag.Bool("update", false, "write golden files anew")

// patience bounds every wait of these tests.
const patience = 3 * time.Minute

// shared is the super cluster of most tests; each has a namespace of its own in it.
var shared *testenv.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := runWithCluster(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runWithCluster(m *testing.M) (int, error) {
	folder, err := os.MkdirTemp("", "kubectl-vc-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(folder)
	shared, err = testenv.Start(context.Background(), folder, testenv.Options{CRDs: true})
	if err != nil {
		return 0, err
	}
	defer shared.Stop()
	return m.Run(), nil
}

// result is what a run of the program did.
type result struct {
	out, errOut string
	err         error
}

func (r result) String() string {
	return fmt.Sprintf("error: %v\noutput:\n%s\nerrors:\n%s", r.err, r.out, r.errOut)
}

// user is somebody with a kubeconfig.
type user struct {
	cluster    *testenv.Cluster
	kubeconfig string
	namespace  string
}

// newUser has all rights in the shared cluster, and a namespace for the test.
func newUser(t *testing.T) user {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := shared.Client.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	return user{cluster: shared, kubeconfig: writeKubeconfig(t, shared.Kubeconfig), namespace: namespace.Name}
}

// newUserWith is somebody who may do only what rules say, in the namespace.
func newUserWith(t *testing.T, cluster *testenv.Cluster, namespace string, rules ...rbacv1.PolicyRule) user {
	t.Helper()
	name := "guest-" + namespace
	pair, err := cluster.CA.Issue(pki.Leaf{CommonName: name, Usage: pki.Client})
	if err != nil {
		t.Fatal(err)
	}
	content, err := kubeconfig.Encode(kubeconfig.Config{Name: "guest", Server: cluster.Config.Host, CA: cluster.CA.Cert, User: "guest", Client: pair})
	if err != nil {
		t.Fatal(err)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: rules}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: role.ObjectMeta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}},
	}
	for _, object := range []client.Object{role, binding} {
		if err := cluster.Client.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	return user{cluster: cluster, kubeconfig: writeKubeconfig(t, content), namespace: namespace}
}

func writeKubeconfig(t *testing.T, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// run runs the program as the user types it.
func (u user) run(ctx context.Context, args ...string) result {
	var out, errOut bytes.Buffer
	root := New(genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut})
	root.SetArgs(append(args, "--kubeconfig", u.kubeconfig, "--namespace", u.namespace, "--cache-dir", filepath.Join(filepath.Dir(u.kubeconfig), "cache")))
	err := root.ExecuteContext(ctx)
	return result{out: out.String(), errOut: errOut.String(), err: err}
}

// start runs the program beside the test.
func (u user) start(ctx context.Context, args ...string) <-chan result {
	done := make(chan result, 1)
	go func() { done <- u.run(ctx, args...) }()
	return done
}

func await(t *testing.T, done <-chan result) result {
	t.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(patience):
		t.Fatal("the program did not end")
		return result{}
	}
}

// mustFail checks that a run ended with an error that holds all the words.
func mustFail(t *testing.T, r result, words ...string) {
	t.Helper()
	if r.err == nil {
		t.Fatalf("no error; output:\n%s", r.out)
	}
	for _, word := range words {
		if !strings.Contains(r.err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, r.err)
		}
	}
}

// awaitCluster returns the virtual cluster once it is there.
func (u user) awaitCluster(t *testing.T, name string) *tenancyv1alpha1.VirtualCluster {
	t.Helper()
	vc := &tenancyv1alpha1.VirtualCluster{}
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		err := u.cluster.Client.Get(ctx, client.ObjectKey{Namespace: u.namespace, Name: name}, vc)
		return err == nil, client.IgnoreNotFound(err)
	})
	if err != nil {
		t.Fatalf("waiting for virtual cluster %s: %v", name, err)
	}
	return vc
}

// create makes a virtual cluster, as a user would.
func (u user) create(t *testing.T, name string) *tenancyv1alpha1.VirtualCluster {
	t.Helper()
	if r := u.run(t.Context(), "create", name); r.err != nil {
		t.Fatal(r.err)
	}
	return u.awaitCluster(t, name)
}

// setConditions writes status as vc-manager does: the named conditions true, and
// those in more as they are.
func (u user) setConditions(t *testing.T, vc *tenancyv1alpha1.VirtualCluster, holds []string, more ...metav1.Condition) {
	t.Helper()
	for _, name := range holds {
		more = append(more, metav1.Condition{Type: name, Status: metav1.ConditionTrue, Reason: "Done"})
	}
	before := vc.DeepCopy()
	for _, condition := range more {
		meta.SetStatusCondition(&vc.Status.Conditions, condition)
	}
	vc.Status.ControlPlaneNamespace = vc.Namespace + "-cp"
	if err := u.cluster.Client.Status().Patch(t.Context(), vc, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

// publish makes the control plane's namespace with the Secret of the kubeconfig.
func publish(t *testing.T, vc *tenancyv1alpha1.VirtualCluster, content []byte) {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: vc.Namespace + "-cp"}}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: tenancy.AdminKubeconfigSecret},
		Data:       map[string][]byte{tenancy.KubeconfigKey: content},
	}
	for _, object := range []client.Object{namespace, secret} {
		if err := shared.Client.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
}

// tenantKubeconfig is one as vc-manager writes it.
func tenantKubeconfig(t *testing.T) []byte {
	t.Helper()
	content, err := kubeconfig.Encode(kubeconfig.Config{
		Name: "demo", Server: "https://10.1.2.3:31000", CA: []byte("ca"), User: tenancy.UserAdmin,
		Client: pki.Pair{Cert: []byte("certificate"), Key: []byte("key")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-update writes it anew):\n%s", file, diff)
	}
}
