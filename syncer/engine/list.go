package engine

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// each visits the objects of a list, which must not be changed.
func each[T Object](ctx context.Context, e *Engine, from client.Reader, visit func(T), options ...client.ListOption) error {
	gvk, err := e.gvkOf(newObject[T]())
	if err != nil {
		return err
	}
	gvk.Kind += "List"
	object, err := e.scheme.New(gvk)
	if err != nil {
		return fmt.Errorf("making a list of %T: %w", newObject[T](), err)
	}
	list := object.(client.ObjectList)
	if err := from.List(ctx, list, append(options, client.UnsafeDisableDeepCopy)...); err != nil {
		return fmt.Errorf("listing %s: %w", gvk.Kind, err)
	}
	return eachItem(list, visit)
}

// eachItem visits the items of a list.
func eachItem[T Object](list client.ObjectList, visit func(T)) error {
	items, err := meta.ExtractList(list)
	if err != nil {
		return fmt.Errorf("reading %T: %w", list, err)
	}
	for _, item := range items {
		if object, ok := item.(T); ok {
			visit(object)
		}
	}
	return nil
}
