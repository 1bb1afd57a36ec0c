package command

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// retryDelay is the pause before a watch that broke is opened again.
const retryDelay = 500 * time.Millisecond

// follow calls see with each state of the virtual cluster from vc on, in order and as
// soon as it is known, until see returns true, the virtual cluster is gone (then see
// is called with nil, once), or ctx ends. It outlives the super cluster's apiserver.
func (s *super) follow(ctx context.Context, vc *tenancyv1alpha1.VirtualCluster, see func(*tenancyv1alpha1.VirtualCluster) (done bool)) error {
	if see(vc) {
		return nil
	}
	version := vc.ResourceVersion
	for {
		done, err := s.followOnce(ctx, vc.Name, vc.UID, version, see)
		if done || ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && (apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)) {
			return s.explainFor(err, vc.Name)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryDelay):
		}
		// The watch broke, or was too long ago: start from what is there now.
		now := &tenancyv1alpha1.VirtualCluster{}
		switch err := s.Get(ctx, s.key(vc.Name), now); {
		case apierrors.IsNotFound(err), err == nil && now.UID != vc.UID:
			see(nil)
			return nil
		case err != nil:
			continue // it does not answer; the context bounds this
		}
		if see(now) {
			return nil
		}
		version = now.ResourceVersion
	}
}

func (s *super) followOnce(ctx context.Context, name string, uid types.UID, version string, see func(*tenancyv1alpha1.VirtualCluster) bool) (done bool, err error) {
	watcher, err := s.Watch(ctx, &tenancyv1alpha1.VirtualClusterList{}, &client.ListOptions{
		Namespace:     s.namespace,
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name),
		Raw:           &metav1.ListOptions{ResourceVersion: version},
	})
	if err != nil {
		return false, fmt.Errorf("watching virtual cluster %s: %w", name, err)
	}
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		vc, ok := event.Object.(*tenancyv1alpha1.VirtualCluster)
		if !ok {
			return false, fmt.Errorf("watching virtual cluster %s: %w", name, apierrors.FromObject(event.Object))
		}
		switch {
		case vc.UID != uid:
		case event.Type == watch.Deleted:
			see(nil)
			return true, nil
		case see(vc):
			return true, nil
		}
	}
	return false, nil
}
