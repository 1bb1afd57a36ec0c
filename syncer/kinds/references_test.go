package kinds

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// An immutable object takes no change in the super cluster either: a copy that is not
// as it should be can only be made anew.
func TestImmutableCopiesAreReplaced(t *testing.T) {
	yes := true
	config := func(value string, immutable *bool) *corev1.ConfigMap {
		return &corev1.ConfigMap{Data: map[string]string{"k": value}, Immutable: immutable}
	}
	replace := configMaps().(*engine.Down[*corev1.ConfigMap]).Replace
	for name, tc := range map[string]struct {
		super, desired *corev1.ConfigMap
		want           bool
	}{
		"the same":           {config("a", &yes), config("a", &yes), false},
		"other data":         {config("a", &yes), config("b", &yes), true},
		"mutable again":      {config("a", &yes), config("a", nil), true},
		"becomes immutable":  {config("a", nil), config("b", &yes), false},
		"was never":          {config("a", nil), config("b", nil), false},
		"said to be mutable": {config("a", new(bool)), config("b", nil), false},
	} {
		if got := replace(tc.super, tc.desired); got != tc.want {
			t.Errorf("%s: replaced %v", name, got)
		}
	}
	secret := secrets().(*engine.Down[*corev1.Secret]).Replace
	if !secret(&corev1.Secret{Type: corev1.SecretTypeTLS}, &corev1.Secret{Type: corev1.SecretTypeOpaque}) {
		t.Error("a Secret of another type is not replaced")
	}
	if !secret(&corev1.Secret{Immutable: &yes}, &corev1.Secret{Immutable: &yes, Data: map[string][]byte{"k": nil}}) {
		t.Error("an immutable Secret with other data is not replaced")
	}
}
