package command

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/phase"
)

func TestCreate(t *testing.T) {
	u := newUser(t)
	r := u.run(t.Context(), "create", "demo", "--class", "small", "--service-cidr", "10.100.0.0/16")
	if r.err != nil || r.out != "virtualcluster.tenancy.bulkhead.dev/demo created\n" {
		t.Fatalf("%s", r)
	}
	if vc := u.awaitCluster(t, "demo"); vc.Spec.ClassName != "small" || vc.Spec.ServiceCIDR != "10.100.0.0/16" {
		t.Errorf("%+v", vc.Spec)
	}
	mustFail(t, u.run(t.Context(), "create", "demo"), `"demo" exists already`, "kubectl vc describe")
}

func TestCreateTakesTheDefaultsOfTheAPI(t *testing.T) {
	u := newUser(t)
	if vc := u.create(t, "demo"); vc.Spec.ClassName != "default" || vc.Spec.ServiceCIDR != "10.96.0.0/16" {
		t.Errorf("%+v", vc.Spec)
	}
}

func TestCreateRefusesBadInput(t *testing.T) {
	u := newUser(t)
	mustFail(t, u.run(t.Context(), "create"), "give the name of one virtual cluster")
	mustFail(t, u.run(t.Context(), "create", "a", "b"), "give the name of one virtual cluster")
	mustFail(t, u.run(t.Context(), "create", "demo", "--service-cidr", "10.96.0.1/16"), "serviceCIDR must be a network in CIDR notation")
	mustFail(t, u.run(t.Context(), "create", "demo", "--service-cidr", "10.96.0.0/30"), "between /12 and /24")
	mustFail(t, u.run(t.Context(), "create", "Demo"), "metadata.name", "lowercase")
	nowhere := user{kubeconfig: u.kubeconfig, namespace: "nowhere"}
	mustFail(t, nowhere.run(t.Context(), "create", "demo"), "namespace nowhere does not exist", "kubectl create namespace nowhere")
}

func TestCreateWaitShowsEachPhase(t *testing.T) {
	u := newUser(t)
	done := u.start(t.Context(), "create", "demo", "--wait")
	vc := u.awaitCluster(t, "demo")
	u.setConditions(t, vc, nil, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonClassNotFound, Message: "there is no class small"})
	for i := range phase.Order {
		u.setConditions(t, vc, phase.Order[:i+1])
	}
	r := await(t, done)
	if r.err != nil {
		t.Fatal(r.err)
	}
	times := regexp.MustCompile(` *[0-9]+(\.[0-9]+)? (s|%)`)
	golden(t, "testdata/create-wait.out", strings.ReplaceAll(times.ReplaceAllString(r.out, " N $2"), u.namespace, "NAMESPACE"))
	for _, name := range phase.Order {
		if !strings.Contains(r.errOut, name+"\n") {
			t.Errorf("progress does not show %s:\n%s", name, r.errOut)
		}
	}
}

func TestCreateWaitTellsWhatItWaitsFor(t *testing.T) {
	u := newUser(t)
	done := u.start(t.Context(), "create", "slow", "--wait", "--timeout", "3s")
	u.setConditions(t, u.awaitCluster(t, "slow"), []string{v1alpha1.ConditionNamespaceReady},
		metav1.Condition{Type: v1alpha1.ConditionCertificatesReady, Status: metav1.ConditionFalse, Reason: "NameTaken", Message: "Secret pki is not ours"})
	r := await(t, done)
	mustFail(t, r, "timed out", "slow is not Ready yet", "CertificatesReady (NameTaken: Secret pki is not ours)", "kubectl vc describe slow -n "+u.namespace)
	if !strings.Contains(r.errOut, "waiting for CertificatesReady (NameTaken: Secret pki is not ours)\n") {
		t.Errorf("progress does not tell the reason:\n%s", r.errOut)
	}
}

func TestCreateWaitInterrupted(t *testing.T) {
	u := newUser(t)
	ctx, interrupt := context.WithCancel(t.Context())
	done := u.start(ctx, "create", "demo", "--wait")
	u.awaitCluster(t, "demo")
	interrupt()
	r := await(t, done)
	mustFail(t, r, "interrupted")
	// The program may not have got beyond the creation itself.
	if !errors.Is(r.err, ErrInterrupted) && !errors.Is(r.err, context.Canceled) {
		t.Errorf("%v", r.err)
	}
}

func TestCreateWaitOfOneThatIsDeleted(t *testing.T) {
	u := newUser(t)
	done := u.start(t.Context(), "create", "demo", "--wait")
	if err := shared.Client.Delete(t.Context(), u.awaitCluster(t, "demo")); err != nil {
		t.Fatal(err)
	}
	mustFail(t, await(t, done), "was deleted while it was being made")
}

// The super cluster's apiserver may go away in the middle of it.
func TestCreateWaitOutlivesTheAPIServer(t *testing.T) {
	options := testenv.Options{CRDs: true}
	cluster := testenv.New(t, options)
	u := user{cluster: cluster, kubeconfig: writeKubeconfig(t, cluster.Kubeconfig), namespace: "default"}
	done := u.start(t.Context(), "create", "demo", "--wait")
	u.setConditions(t, u.awaitCluster(t, "demo"), phase.Order[:1])
	cluster.KillAPIServer()
	if err := cluster.StartAPIServer(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	u.setConditions(t, u.awaitCluster(t, "demo"), phase.Order)
	if r := await(t, done); r.err != nil || !strings.Contains(r.out, "demo is Ready after") {
		t.Errorf("%s", r)
	}
}
