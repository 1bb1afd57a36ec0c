package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/abm/rbac"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

func TestOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string // in the error; none if empty
	}{
		"defaults":         {nil, ""},
		"all the chart's":  {[]string{"--leader-elect", "--platform-namespace=x", "--account-namespace=y", "--webhook-hosts=abm-webhook.x.svc"}, ""},
		"no accounts":      {[]string{"--account-namespace="}, "--account-namespace is empty"},
		"our own accounts": {[]string{"--account-namespace=bulkhead-system"}, "must not act as"},
		"no workers":       {[]string{"--workers=0"}, "--workers is 0"},
		"no requests":      {[]string{"--super-qps=-1"}, "--super-qps is -1"},
		"something to run": {[]string{"run"}, "unexpected arguments"},
	} {
		o := defaults()
		flags := flag.NewFlagSet("abm", flag.ContinueOnError)
		o.bind(flags)
		if err := flags.Parse(tc.args); err != nil {
			t.Fatal(err)
		}
		err := o.validate(flags.Args())
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

const definitionText = `
apiVersion: abm.bulkhead.dev/v1alpha1
kind: ServiceDefinition
metadata: {name: greeter}
spec:
  parameterSchema:
    type: object
    properties:
      greeting: {type: string, maxLength: 20, default: hello}
      tier: {type: string, default: free, x-kubernetes-validations: [{rule: self == oldSelf, message: the tier cannot change}]}
  plans: [{name: small}]
  access: {super: [{kind: ConfigMap}]}
  steps:
  - name: greet
    manifests: {objects: [{id: x, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: '${instance.name}'}, data: {greeting: '${params.greeting}'}}}]}
  - name: ask
    approval: {question: 'go on?'}
`

const instanceText = `
apiVersion: abm.bulkhead.dev/v1alpha1
kind: ServiceInstance
metadata: {name: acme, namespace: default}
spec: {serviceName: greeter, planName: small, parameters: {greeting: hi}}
`

// TestRun runs the program as the chart does: with the rights that package rbac
// lists, leader election, and its listeners; its webhook answers a real API server.
func TestRun(t *testing.T) {
	ctrl.SetLogger(zap.New(zap.WriteTo(io.Discard)))
	super := testenv.New(t, testenv.Options{CRDs: true})
	scheme := testenv.Scheme()
	utilruntime.Must(abmv1alpha1.AddToScheme(scheme))
	admin, err := client.New(super.Config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	o := defaults()
	o.webhookAddress, o.metricsAddress, o.healthAddress = freeAddress(t), freeAddress(t), freeAddress(t)
	o.webhookHosts = "127.0.0.1"
	install(t, admin, o)
	t.Setenv("KUBECONFIG", limitedKubeconfig(t, super))

	// Nothing passes while ABM is not there to look at it.
	if err := admin.Create(t.Context(), object(t, definitionText)); err == nil {
		t.Fatal("a definition passed before ABM ran")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, o) }()
	poll(t, func() error {
		select {
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		default:
		}
		return expect("http://"+o.healthAddress+"/readyz", nil, http.StatusOK)
	})
	poll(t, func() error { return expect("https://"+o.metricsAddress+"/metrics", nil, http.StatusUnauthorized) })
	poll(t, func() error { return client.IgnoreAlreadyExists(admin.Create(t.Context(), object(t, definitionText))) })
	poll(t, func() error { return accepted(t, admin) })

	t.Run("webhook is closed to others", func(t *testing.T) { checkWebhookClosed(t, admin, o) })
	t.Run("definitions", func(t *testing.T) { checkDefinitions(t, admin) })
	t.Run("instances", func(t *testing.T) { checkInstances(t, admin) })
	t.Run("a life", func(t *testing.T) { checkLife(t, super, admin) })

	cancel()
	if err := <-ended; err != nil {
		t.Errorf("told to stop, it ended with %v", err)
	}
}

// install does the chart's part.
func install(t *testing.T, admin client.Client, o options) {
	t.Helper()
	user := rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "abm"}
	url := "https://" + o.webhookAddress + "/"
	configuration := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: rbac.WebhookConfiguration}}
	for name, resource := range map[string]string{definitionsHook: "servicedefinitions", instancesHook: "serviceinstances"} {
		none, all := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.AllScopes
		configuration.Webhooks = append(configuration.Webhooks, admissionregistrationv1.ValidatingWebhook{
			Name: name, AdmissionReviewVersions: []string{"v1"}, SideEffects: &none,
			ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &url},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{abmv1alpha1.Domain}, APIVersions: []string{"v1alpha1"}, Resources: []string{resource}, Scope: &all},
			}},
			MatchConditions: []admissionregistrationv1.MatchCondition{{Name: "spec-changes", Expression: "oldObject == null || object.spec != oldObject.spec"}},
		})
	}
	role := func(namespace, name string, rules []rbacv1.PolicyRule) []client.Object {
		return []client.Object{
			&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: rules},
			&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}, Subjects: []rbacv1.Subject{user}},
		}
	}
	objects := []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: o.namespace}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: o.accountNamespace}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "abm"}, Rules: append(rbac.SuperRules(), rbac.ServiceRules()...)},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "abm"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "abm"}, Subjects: []rbacv1.Subject{user}},
		configuration,
	}
	objects = append(objects, role(o.namespace, "abm", rbac.PlatformNamespaceRules())...)
	objects = append(objects, role(o.accountNamespace, "abm", rbac.AccountRules())...)
	for _, object := range objects {
		if err := admin.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
}

func limitedKubeconfig(t *testing.T, super *testenv.Cluster) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, userKubeconfig(t, super, "abm"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func userKubeconfig(t *testing.T, super *testenv.Cluster, user string) []byte {
	t.Helper()
	pair, err := super.CA.Issue(pki.Leaf{CommonName: user, Usage: pki.Client})
	if err != nil {
		t.Fatal(err)
	}
	data, err := kubeconfig.Encode(kubeconfig.Config{Name: "super", Server: super.Config.Host, CA: super.CA.Cert, User: user, Client: pair})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func object(t *testing.T, text string) client.Object {
	t.Helper()
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
		t.Fatal(err)
	}
	var into client.Object = &abmv1alpha1.ServiceDefinition{}
	if kind.Kind == "ServiceInstance" {
		into = &abmv1alpha1.ServiceInstance{}
	}
	if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
		t.Fatal(err)
	}
	return into
}

func accepted(t *testing.T, admin client.Client) error {
	t.Helper()
	definition := &abmv1alpha1.ServiceDefinition{}
	if err := admin.Get(t.Context(), client.ObjectKey{Name: "greeter"}, definition); err != nil {
		return err
	}
	if !meta.IsStatusConditionTrue(definition.Status.Conditions, abmv1alpha1.ConditionAccepted) || definition.Status.LatestRevision == "" {
		return fmt.Errorf("the definition is not accepted: %+v", definition.Status)
	}
	return nil
}

// checkLife buys, approves and releases, with ABM's real rights.
func checkLife(t *testing.T, super *testenv.Cluster, admin client.Client) {
	instance := object(t, instanceText).(*abmv1alpha1.ServiceInstance)
	if err := admin.Create(t.Context(), instance); err != nil {
		t.Fatal(err)
	}
	waitPhase := func(step string, phase abmv1alpha1.StepPhase) {
		t.Helper()
		poll(t, func() error {
			if err := admin.Get(t.Context(), client.ObjectKeyFromObject(instance), instance); err != nil {
				return err
			}
			for _, s := range instance.Status.Steps {
				if s.Name == step && s.Phase == phase {
					return nil
				}
			}
			return fmt.Errorf("step %s is not %s: %+v", step, phase, instance.Status)
		})
	}
	waitPhase("ask", abmv1alpha1.StepWorking)
	update := func(writer client.Client, how func(*abmv1alpha1.ServiceInstanceSpec)) error {
		return retry.RetryOnConflict(retry.DefaultRetry, func() error {
			if err := admin.Get(t.Context(), client.ObjectKeyFromObject(instance), instance); err != nil {
				return err
			}
			how(&instance.Spec)
			return writer.Update(t.Context(), instance)
		})
	}
	if err := update(admin, func(spec *abmv1alpha1.ServiceInstanceSpec) { spec.Parameters.Raw = []byte(`{"tier": "gold"}`) }); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "the tier cannot change") {
		t.Errorf("changing the tier: %v", err)
	}
	// A buyer may change their instance, and not approve.
	for _, object := range []client.Object{
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "buyer"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{abmv1alpha1.Domain}, Resources: []string{"serviceinstances"}, Verbs: []string{"get", "update"}}}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "buyer"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "buyer"}, Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "buyer"}}},
	} {
		if err := admin.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	config, err := kubeconfig.RESTConfig(userKubeconfig(t, super, "buyer"))
	if err != nil {
		t.Fatal(err)
	}
	buyer, err := client.New(config, client.Options{Scheme: admin.Scheme(), Mapper: admin.RESTMapper()})
	if err != nil {
		t.Fatal(err)
	}
	approve := func(by string) func(*abmv1alpha1.ServiceInstanceSpec) {
		return func(spec *abmv1alpha1.ServiceInstanceSpec) {
			spec.Interventions = []abmv1alpha1.Intervention{{ID: "1", Step: "ask", Action: abmv1alpha1.ActionApprove, By: by}}
		}
	}
	poll(t, func() error {
		err := update(buyer, approve("buyer"))
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "buyer may not approve serviceinstances") {
			return fmt.Errorf("the buyer approves: %w", err)
		}
		return nil
	})
	if err := update(admin, approve("testenv-admin")); err != nil {
		t.Fatal(err)
	}
	waitPhase("ask", abmv1alpha1.StepDone)
	poll(t, func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(instance), instance); err != nil {
			return err
		}
		if instance.Status.Phase != abmv1alpha1.PhaseReady {
			return fmt.Errorf("it is %s", instance.Status.Phase)
		}
		return nil
	})
	if err := admin.Delete(t.Context(), instance); err != nil {
		t.Fatal(err)
	}
	poll(t, func() error {
		err := admin.Get(t.Context(), client.ObjectKeyFromObject(instance), instance)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is still there (%w): %+v", err, instance.Status)
	})
	for _, left := range []client.ObjectList{&corev1.ConfigMapList{}, &rbacv1.RoleList{}, &rbacv1.RoleBindingList{}, &abmv1alpha1.StepRecordList{}} {
		if err := admin.List(t.Context(), left, client.MatchingLabels{abmv1alpha1.LabelInstanceUID: string(instance.UID)}); err != nil {
			t.Fatal(err)
		}
		if n := meta.LenList(left); n > 0 {
			t.Errorf("%d of %T are left", n, left)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// expect asks a listener for a page; trust is nil where its certificate does not matter.
func expect(url string, trust *x509.CertPool, status int) error {
	httpClient := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: trust, InsecureSkipVerify: trust == nil}, DisableKeepAlives: true,
	}}
	response, err := httpClient.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != status {
		return fmt.Errorf("%s answers %s, want %d", url, response.Status, status)
	}
	return nil
}

func poll(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var last error
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(context.Context) (bool, error) {
		last = check()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%v: %v", err, last)
	}
}
