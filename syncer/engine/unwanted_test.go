package engine

import (
	"testing"
	"time"
)

func TestUnwanted(t *testing.T) {
	var u unwanted
	key, other := Key{Resource: "secrets", Namespace: "web", Name: "a"}, Key{Resource: "secrets", Namespace: "web", Name: "b"}
	now := time.Unix(100, 0)
	u.forget(key)
	for _, step := range []struct {
		key   Key
		after time.Duration
		want  time.Duration
	}{{key, 0, 5 * time.Second}, {key, 3 * time.Second, 2 * time.Second}, {other, 3 * time.Second, 5 * time.Second}, {key, 6 * time.Second, -time.Second}} {
		if got := u.left(step.key, 5*time.Second, now.Add(step.after)); got != step.want {
			t.Errorf("%v after %s: %s", step.key, step.after, got)
		}
	}
	u.forget(key)
	if got := u.left(key, 5*time.Second, now.Add(time.Minute)); got != 5*time.Second {
		t.Errorf("wanted in between: %s", got)
	}
}
