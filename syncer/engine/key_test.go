package engine

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
)

// A watch that was interrupted reports a deletion without the last object; the
// ancestor's handlers panicked on it (virtualcluster.md 2.6).
func TestObjectOfMissedDeletion(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	for _, event := range []any{pod, cache.DeletedFinalStateUnknown{Key: "p", Obj: pod}} {
		if got, ok := objectOf[*corev1.Pod](event); !ok || got != pod {
			t.Errorf("%T: %v, %v", event, got, ok)
		}
	}
	for _, event := range []any{nil, "text", &corev1.Node{}, cache.DeletedFinalStateUnknown{Key: "p"}} {
		if _, ok := objectOf[*corev1.Pod](event); ok {
			t.Errorf("%v is a pod", event)
		}
	}
}

func TestIsExpected(t *testing.T) {
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, "p", fmt.Errorf("changed"))
	for err, want := range map[error]bool{
		Wait("x"):                      true,
		fmt.Errorf("y: %w", Wait("x")): true,
		fmt.Errorf("y: %w", conflict):  true,
		context.Canceled:               true,
		fmt.Errorf("broken"):           false,
		apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "p", nil): false,
	} {
		if isExpected(err) != want {
			t.Errorf("%v", err)
		}
	}
}

func TestIsUnreachable(t *testing.T) {
	refused := &url.Error{Op: "Get", URL: "https://x", Err: errors.New("connection refused")}
	if !isUnreachable(fmt.Errorf("reading: %w", refused)) || isUnreachable(errors.New("other")) || isUnreachable(&url.Error{Err: context.Canceled}) {
		t.Error("wrong")
	}
}

func TestKeyString(t *testing.T) {
	for key, want := range map[Key]string{
		{Resource: "pods", Namespace: "web", Name: "a"}: "pods web/a",
		{Resource: "nodes", Name: "n"}:                  "nodes n",
	} {
		if key.String() != want {
			t.Error(key)
		}
	}
}
