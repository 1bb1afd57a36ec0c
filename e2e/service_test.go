//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// boughtService buys a service that makes a virtual cluster and runs something in it,
// sees bad orders refused, and releases it.
func boughtService(t *testing.T) {
	ensureTestNamespace(t)
	superKubectl := func(ctx context.Context, args ...string) (string, error) {
		return superTool(ctx, "kubectl", args...)
	}
	definition := filepath.Join("testdata", "service.yaml")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 4*time.Minute)
		defer cancel()
		for _, args := range [][]string{
			{"delete", "serviceinstance", "greeter", "-n", namespace, "--ignore-not-found", "--timeout=3m"},
			{"delete", "-f", definition, "--ignore-not-found"},
		} {
			if out, err := superKubectl(ctx, args...); err != nil {
				t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
	})
	// The webhook serves once abm runs.
	eventually(t, 3*time.Minute, "the definition is accepted", func(ctx context.Context) error {
		out, err := superKubectl(ctx, "apply", "-f", definition)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		out, err = superKubectl(ctx, "wait", "--for=condition=Accepted", "servicedefinition/e2e-hello", "--timeout=30s")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	order := func(parameters string) (string, error) {
		text := `{"apiVersion":"abm.bulkhead.dev/v1alpha1","kind":"ServiceInstance","metadata":{"name":"greeter","namespace":"` + namespace + `"},
			"spec":{"serviceName":"e2e-hello","planName":"small","parameters":` + parameters + `}}`
		file := filepath.Join(t.TempDir(), "order.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return superKubectl(t.Context(), "apply", "-f", file)
	}
	for parameters, word := range map[string]string{
		`{}`: "greeting", `{"greeting":1}`: "greeting", `{"greeting":"hi","image":"mine"}`: "image",
	} {
		if out, err := order(parameters); err == nil || !strings.Contains(out, word) {
			t.Errorf("an order with %s: %v, %s; want a refusal that names %s", parameters, err, out, word)
		}
	}
	if out, err := order(`{"greeting":"good day"}`); err != nil {
		t.Fatalf("ordering: %v\n%s", err, out)
	}
	if out, err := superKubectl(t.Context(), "wait", "--for=condition=Ready", "serviceinstance/greeter", "-n", namespace, "--timeout=5m"); err != nil {
		state, _ := superKubectl(t.Context(), "get", "serviceinstances,steprecords", "-n", namespace, "-o", "yaml")
		t.Fatalf("%v: %s\n%s", err, out, state)
	}
	if out, err := superKubectl(t.Context(), "get", "serviceinstance", "greeter", "-n", namespace, "-o", "jsonpath={.status.outputs[0].value}"); err != nil || out != "2" {
		t.Errorf("the output is %q (%v), want 2", out, err)
	}
	tn := openTenant(t, namespace, "greeter")
	if out := tn.kubectl(t, "exec", "deployment/page", "--", "cat", "/text/greeting"); out != "good day" {
		t.Errorf("the page reads %q", out)
	}

	if out, err := superKubectl(t.Context(), "delete", "serviceinstance", "greeter", "-n", namespace, "--timeout=4m"); err != nil {
		t.Fatalf("releasing: %v\n%s", err, out)
	}
	eventually(t, 2*time.Minute, "the release has left nothing", func(ctx context.Context) error {
		left, err := carriesUID(ctx, tn.Tenant)
		if err != nil {
			return err
		}
		out, err := superKubectl(ctx, "get", "virtualclusters,steprecords", "-n", namespace, "-o", "name")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		for name := range strings.Lines(out) {
			if strings.Contains(name, "greeter") {
				left = append(left, strings.TrimSpace(name))
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
}
