//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// application runs one of everything with a tenant's kubeconfig alone and then
// sees each delete take its super objects along.
func application(t *testing.T) {
	tn := newTenant(t, "app")
	t.Run("deployment", func(t *testing.T) { deployment(t, tn) })
	t.Run("token", func(t *testing.T) { projectedToken(t, tn) })
	t.Run("logs", func(t *testing.T) { followLogs(t, tn) })
	t.Run("exec", func(t *testing.T) { execTTY(t, tn) })
	t.Run("attach", func(t *testing.T) { attach(t, tn) })
	t.Run("port-forward", func(t *testing.T) { portForward(t, tn) })
	t.Run("cp", func(t *testing.T) { copyFile(t, tn) })
	t.Run("nodes", func(t *testing.T) { virtualNodes(t, tn) })
	t.Run("events", func(t *testing.T) { events(t, tn) })
	t.Run("explain", func(t *testing.T) { explainPod(t, tn) })
	t.Run("workloads", func(t *testing.T) { workloads(t, tn) })
	t.Run("custom-resource", func(t *testing.T) { customResource(t, tn) })
	t.Run("top", func(t *testing.T) { top(t, tn) })
	t.Run("autoscaler", func(t *testing.T) { autoscaler(t, tn) })
	t.Run("deletes", func(t *testing.T) { deletes(t, tn) })
}

func deployment(t *testing.T, tn *tenant) {
	tn.apply(t, "app.yaml")
	tn.kubectl(t, "rollout", "status", "deployment/app", "--timeout=3m")
	var d appsv1.Deployment
	if err := tn.client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "app"}, &d); err != nil {
		t.Fatal(err)
	}
	if d.Status.AvailableReplicas != 3 {
		t.Errorf("%d replicas available, want 3", d.Status.AvailableReplicas)
	}
	var pvc corev1.PersistentVolumeClaim
	if err := tn.client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "data"}, &pvc); err != nil {
		t.Fatal(err)
	}
	if pvc.Status.Phase != corev1.ClaimBound || pvc.Status.Capacity.Storage().IsZero() {
		t.Errorf("claim is %s with capacity %v", pvc.Status.Phase, pvc.Status.Capacity)
	}
}

// projectedToken asks the tenant's own apiserver whose token a pod was given.
func projectedToken(t *testing.T, tn *tenant) {
	token := strings.TrimSpace(tn.kubectl(t, "exec", "deploy/app", "--", "cat", "/token/token"))
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{"vault"}}}
	if err := tn.client.Create(t.Context(), review); err != nil {
		t.Fatal(err)
	}
	if !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:default:default" {
		t.Errorf("the tenant's apiserver says of the pod's token: %+v", review.Status)
	}
	pod := strings.TrimSpace(tn.kubectl(t, "exec", "deploy/app", "--", "hostname"))
	if got := review.Status.User.Extra["authentication.kubernetes.io/pod-name"]; len(got) != 1 || got[0] != pod {
		t.Errorf("token is bound to pod %v, want %s", got, pod)
	}
	// The standard token, as client libraries find it, is the tenant's too.
	token = strings.TrimSpace(tn.kubectl(t, "exec", "deploy/app", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"))
	review = &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	if err := tn.client.Create(t.Context(), review); err != nil {
		t.Fatal(err)
	}
	if !review.Status.Authenticated {
		t.Errorf("the tenant's apiserver refuses the pod's standard token: %+v", review.Status)
	}
	if ns := tn.kubectl(t, "exec", "deploy/app", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/namespace"); ns != "default" {
		t.Errorf("the pod reads its namespace as %q", ns)
	}
}

func followLogs(t *testing.T, tn *tenant) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := tn.command(ctx, "logs", "-f", "deploy/app", "--tail", "2", "--timestamps")
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	// A pod that has just started says first who it is.
	line := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\S+Z? (tick \d+|ready as \S+ on \S+)$`)
	seen := 0
	scanner := bufio.NewScanner(stdout)
	for seen < 5 && scanner.Scan() {
		if !line.MatchString(scanner.Text()) {
			t.Fatalf("unexpected log line %q", scanner.Text())
		}
		seen++
	}
	cancel()
	_ = command.Wait() // it was cancelled
	if seen < 5 {
		t.Fatalf("followed %d lines only", seen)
	}
	if out := tn.kubectl(t, "logs", "deploy/app", "--since=1h"); !strings.Contains(out, "ready as app-") {
		t.Errorf("first log line is missing in:\n%.500s", out)
	}
}

// execTTY runs kubectl exec -it on a real terminal, which script(1) gives it.
func execTTY(t *testing.T, tn *tenant) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := tn.command(ctx)
	command.Path, command.Args = "/usr/bin/script", []string{"script", "-qec", bin("kubectl") + " exec -it deploy/app -- sh -c 'test -t 0 && echo on-a-terminal; read x; echo got-$x'", "/dev/null"}
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	buffer := make([]byte, 1024)
	written := false
	for {
		n, err := stdout.Read(buffer)
		text.Write(buffer[:n])
		if !written && strings.Contains(text.String(), "on-a-terminal") {
			if _, err := io.WriteString(stdin, "input\n"); err != nil {
				t.Fatal(err)
			}
			written = true
		}
		if err != nil || strings.Contains(text.String(), "got-input") {
			break
		}
	}
	stdin.Close()
	if err := command.Wait(); err != nil || !strings.Contains(text.String(), "got-input") {
		t.Errorf("exec -it: %v\n%s", err, text.String())
	}
	if out, err := tn.tryKubectl(t.Context(), "exec", "deploy/app", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(out, "7") {
		t.Errorf("exit code of the command is lost: %v\n%s", err, out)
	}
}

func attach(t *testing.T, tn *tenant) {
	tn.apply(t, "attach.yaml")
	tn.kubectl(t, "wait", "--for=jsonpath={.status.phase}=Running", "pod/cat", "--timeout=1m")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := tn.command(ctx, "attach", "-i", "cat")
	command.Stdin = strings.NewReader("well\n")
	out, err := output(command)
	if err != nil || !strings.Contains(out, "attached-well") {
		t.Errorf("attach: %v\n%s", err, out)
	}
	tn.kubectl(t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/cat", "--timeout=1m")
	tn.kubectl(t, "delete", "pod", "cat")
}

func portForward(t *testing.T, tn *tenant) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := tn.command(ctx, "port-forward", "deploy/app", ":8080")
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = command.Wait() }()
	scanner := bufio.NewScanner(stdout)
	if !scanner.Scan() {
		t.Fatal("port-forward said nothing")
	}
	match := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(scanner.Text())
	if match == nil {
		t.Fatalf("port-forward said %q", scanner.Text())
	}
	for range 3 { // more than one connection through the same forward
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+match[1]+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || !strings.HasPrefix(string(body), "<p>app-") {
			t.Fatalf("through the forward: %v %q", err, body)
		}
	}
}

func copyFile(t *testing.T, tn *tenant) {
	pod := strings.TrimSpace(tn.kubectl(t, "exec", "deploy/app", "--", "hostname"))
	dir := t.TempDir()
	source, back := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	content := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
	if err := os.WriteFile(source, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	tn.kubectl(t, "cp", source, pod+":/tmp/copied")
	tn.kubectl(t, "cp", pod+":/tmp/copied", back)
	got, err := os.ReadFile(back)
	if err != nil || string(got) != content {
		t.Errorf("copied there and back: %v, %d bytes of %d", err, len(got), len(content))
	}
}

func virtualNodes(t *testing.T, tn *tenant) {
	var pods corev1.PodList
	if err := tn.client.List(t.Context(), &pods, client.InNamespace("default"), client.MatchingLabels{"app": "app"}); err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		var node, superNode corev1.Node
		if err := tn.client.Get(t.Context(), client.ObjectKey{Name: pod.Spec.NodeName}, &node); err != nil {
			t.Fatalf("virtual node of pod %s: %v", pod.Name, err)
		}
		if err := super.client.Get(t.Context(), client.ObjectKey{Name: pod.Spec.NodeName}, &superNode); err != nil {
			t.Fatal(err)
		}
		if node.Status.DaemonEndpoints.KubeletEndpoint.Port != tenancy.VNAgentPort {
			t.Errorf("virtual node %s: kubelet port %d", node.Name, node.Status.DaemonEndpoints.KubeletEndpoint.Port)
		}
		if len(superNode.Annotations) > 0 && len(node.Annotations) >= len(superNode.Annotations) {
			t.Errorf("virtual node %s shows annotations of the super node: %v", node.Name, node.Annotations)
		}
	}
}

func events(t *testing.T, tn *tenant) {
	eventually(t, time.Minute, "events of the kubelet at the tenant's pods", func(ctx context.Context) error {
		var list corev1.EventList
		if err := tn.client.List(ctx, &list, client.InNamespace("default")); err != nil {
			return err
		}
		for _, event := range list.Items {
			if strings.Contains(event.Message, tn.SuperNamespace("default")) {
				t.Errorf("event %s shows a super namespace: %s", event.Name, event.Message)
			}
			if event.InvolvedObject.Kind == "Pod" && event.Reason == "Started" && event.InvolvedObject.Namespace == "default" {
				return nil
			}
		}
		return fmt.Errorf("no Started event among %d", len(list.Items))
	})
}

// explainPod asks where a pod is, as its platform team does: through the syncer's own
// pages, behind a forwarded port.
func explainPod(t *testing.T, tn *tenant) {
	pod := firstOf(t, tn, "app")
	eventually(t, time.Minute, "the whole way of the pod is known", func(ctx context.Context) error {
		out, err := superTool(ctx, "kubectl-vc", "explain", "default/"+pod, "--vc", tn.Name, "-n", namespace)
		if err == nil && !containsAll(out, []string{tn.SuperNamespace("default"), "carried down", "RulesInjected", "the tenant sees it as it is", "waits for: nothing"}) {
			err = fmt.Errorf("it says:\n%s", out)
		}
		return err
	})
}

func workloads(t *testing.T, tn *tenant) {
	tn.apply(t, "workloads.yaml")
	tn.kubectl(t, "rollout", "status", "statefulset/db", "--timeout=3m")
	tn.kubectl(t, "wait", "--for=condition=Complete", "job/once", "--timeout=2m")
	tn.kubectl(t, "create", "job", "by-hand", "--from=cronjob/nightly")
	tn.kubectl(t, "wait", "--for=condition=Complete", "job/by-hand", "--timeout=2m")
	if out := tn.kubectl(t, "logs", "job/once"); !strings.Contains(out, "done once") {
		t.Errorf("the job's log: %q", out)
	}
	eventually(t, 2*time.Minute, "the CronJob runs by its schedule", func(ctx context.Context) error {
		out, err := tn.tryKubectl(ctx, "get", "cronjob", "nightly", "-o", "jsonpath={.status.lastSuccessfulTime}")
		if err == nil && out == "" {
			err = fmt.Errorf("it has not yet")
		}
		return err
	})
}

func customResource(t *testing.T, tn *tenant) {
	tn.apply(t, "crd.yaml")
	tn.kubectl(t, "wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=1m")
	eventually(t, time.Minute, "a custom resource is accepted", func(ctx context.Context) error {
		out, err := tn.tryKubectl(ctx, "apply", "-f", filepath.Join("testdata", "widget.yaml"))
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if out, err := superTool(t.Context(), "kubectl", "get", "crd", "widgets.example.com"); err == nil {
		t.Errorf("the tenant's CRD is in the super cluster:\n%s", out)
	}
}

func top(t *testing.T, tn *tenant) {
	eventually(t, 3*time.Minute, "kubectl top answers", func(ctx context.Context) error {
		out, err := tn.tryKubectl(ctx, "top", "pods", "-n", "default", "--no-headers")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if strings.Count(out, "app-") < 3 {
			return fmt.Errorf("not all pods are in:\n%s", out)
		}
		out, err = tn.tryKubectl(ctx, "top", "nodes", "--no-headers")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if !strings.Contains(out, "node-") {
			return fmt.Errorf("no node is in:\n%s", out)
		}
		return nil
	})
}

func autoscaler(t *testing.T, tn *tenant) {
	tn.apply(t, "hpa.yaml")
	eventually(t, 5*time.Minute, "the HorizontalPodAutoscaler scales up under load", func(ctx context.Context) error {
		out, err := tn.tryKubectl(ctx, "get", "deployment", "busy", "-o", "jsonpath={.status.readyReplicas}")
		if err == nil && out != "2" {
			err = fmt.Errorf("ready replicas: %q", out)
		}
		return err
	})
	tn.kubectl(t, "delete", "-f", filepath.Join("testdata", "hpa.yaml"))
}

// deletes removes everything as the tenant and waits until nothing of it is left
// in the super namespace.
func deletes(t *testing.T, tn *tenant) {
	superNamespace := tn.SuperNamespace("default")
	left := func(ctx context.Context) (names []string, err error) {
		for _, list := range []client.ObjectList{&corev1.PodList{}, &corev1.ConfigMapList{}, &corev1.SecretList{}, &corev1.PersistentVolumeClaimList{}, &corev1.ServiceList{}, &corev1.ServiceAccountList{}} {
			found, err := listNames(ctx, list, client.InNamespace(superNamespace), client.MatchingLabels{tenancy.LabelTenant: string(tn.UID)})
			if err != nil {
				return nil, err
			}
			names = append(names, found...)
		}
		return names, nil
	}
	if before, err := left(t.Context()); err != nil || len(before) == 0 {
		t.Fatalf("before: %v, %v", before, err)
	}
	for _, file := range []string{"workloads.yaml", "app.yaml"} {
		tn.kubectl(t, "delete", "-f", filepath.Join("testdata", file), "--wait=true", "--timeout=2m")
	}
	tn.kubectl(t, "delete", "jobs,pods,pvc", "--all", "--timeout=2m")
	eventually(t, time.Minute, "nothing of the application is left in the super cluster", func(ctx context.Context) error {
		names, err := left(ctx)
		if err == nil && len(names) > 0 {
			err = fmt.Errorf("left: %v", names)
		}
		return err
	})
	eventually(t, time.Minute, "the application's volumes are gone", func(ctx context.Context) error {
		var volumes corev1.PersistentVolumeList
		if err := super.client.List(ctx, &volumes); err != nil {
			return err
		}
		for _, volume := range volumes.Items {
			if volume.Spec.ClaimRef != nil && volume.Spec.ClaimRef.Namespace == superNamespace {
				return fmt.Errorf("volume %s of claim %s is left", volume.Name, volume.Spec.ClaimRef.Name)
			}
		}
		out, err := tn.tryKubectl(ctx, "get", "pv", "-o", "name")
		if err == nil && out != "" && !strings.Contains(out, "No resources") {
			err = fmt.Errorf("the tenant still sees %s", out)
		}
		return err
	})
}
