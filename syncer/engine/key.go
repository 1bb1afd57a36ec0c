package engine

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Key names an object of one tenant, in the tenant's own coordinates, on whichever
// side it is.
type Key struct {
	// Resource is the kind's name in the API, such as pods.
	Resource        string
	Namespace, Name string
}

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Resource + " " + k.Name
	}
	return k.Resource + " " + k.Namespace + "/" + k.Name
}

// Object is a pointer to one of the API's types.
type Object interface {
	comparable
	client.Object
}

// newObject makes an empty T.
func newObject[T Object]() T {
	return reflect.New(reflect.TypeFor[T]().Elem()).Interface().(T)
}

// Get reads an object, and returns nil if there is none. What a cache returns is the
// cache's but for the outermost struct: whoever changes what it refers to copies it first.
func Get[T Object](ctx context.Context, from client.Reader, namespace, name string) (T, error) {
	var none T
	object := newObject[T]()
	err := from.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object, client.UnsafeDisableDeepCopy)
	switch {
	case apierrors.IsNotFound(err):
		return none, nil
	case err != nil:
		return none, fmt.Errorf("reading %T %s/%s: %w", object, namespace, name, err)
	}
	return object, nil
}

// present tells whether there is an object.
func present[T Object](object T) bool {
	var none T
	return object != none
}

// objectOf returns the object of an informer's event, also of one that says that
// the deletion itself was missed.
func objectOf[T Object](event any) (T, bool) {
	if missed, ok := event.(cache.DeletedFinalStateUnknown); ok {
		event = missed.Obj
	}
	object, ok := event.(T)
	return object, ok
}

// WaitError says that something has to happen first which will cause another
// event, or has no event; the key is tried again, and nobody is alarmed.
type WaitError struct {
	For string
	// Earlier says that there is a super object of the name, which stands for a tenant's
	// object that is gone.
	Earlier bool
}

func (e *WaitError) Error() string { return "waiting for " + e.For }

// Wait makes a WaitError.
func Wait(format string, args ...any) error { return &WaitError{For: fmt.Sprintf(format, args...)} }

// isExpected tells whether an error is a normal part of two clusters changing at
// the same time, and no reason for a log line above debugging.
func isExpected(err error) bool {
	var wait *WaitError
	return errors.As(err, &wait) || apierrors.IsConflict(err) || terminating(err) || errors.Is(err, context.Canceled)
}

// isUnreachable tells whether a call failed before an apiserver could answer.
func isUnreachable(err error) bool {
	var call *url.Error
	return errors.As(err, &call) && !errors.Is(err, context.Canceled)
}
