package testenv

import (
	"context"
	"reflect"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// changePatience bounds the attempts of one change.
const changePatience = 3 * time.Minute

// Change reads object anew, lets change edit it and writes it, and does so again
// where a controller has written in between. What a test has in object goes, but for
// its name.
func Change(t testing.TB, to client.Client, object client.Object, change func(), options ...client.UpdateOption) {
	t.Helper()
	rewrite(t, to, object, change, func(ctx context.Context) error { return to.Update(ctx, object, options...) })
}

// ChangeStatus is Change for the object's status.
func ChangeStatus(t testing.TB, to client.Client, object client.Object, change func()) {
	t.Helper()
	rewrite(t, to, object, change, func(ctx context.Context) error { return to.Status().Update(ctx, object) })
}

func rewrite(t testing.TB, from client.Reader, object client.Object, change func(), write func(context.Context) error) {
	t.Helper()
	key := client.ObjectKeyFromObject(object)
	kind := object.GetObjectKind().GroupVersionKind()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, changePatience, true, func(ctx context.Context) (bool, error) {
		// A decoder leaves what the answer has not, such as keys of a map.
		reflect.ValueOf(object).Elem().SetZero()
		object.GetObjectKind().SetGroupVersionKind(kind)
		if err := from.Get(ctx, key, object); err != nil {
			return false, err
		}
		change()
		err := write(ctx)
		return err == nil, client.IgnoreNotFound(ignoreConflict(err))
	})
	if err != nil {
		t.Fatalf("changing %T %s: %v", object, key, err)
	}
}

func ignoreConflict(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return err
}
