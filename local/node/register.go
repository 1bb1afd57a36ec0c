package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/local/layout"
)

// registerTimeout is how long a node may take to be Ready once its programs run.
const registerTimeout = 90 * time.Second

// stale is the age from which on a kubelet's word does not count.
const stale = 15 * time.Second

// AwaitReady waits until each node is Ready in the cluster, and records in it the
// pod network that the node has.
func AwaitReady(ctx context.Context, c client.Client, nodes []layout.Node, step func(string, ...any)) error {
	for _, n := range nodes {
		step("waiting for %s to be Ready", n.Name)
		var problem error
		err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, registerTimeout, true, func(ctx context.Context) (bool, error) {
			problem = ready(ctx, c, n)
			return problem == nil, nil
		})
		if err != nil {
			return fmt.Errorf("node %s is not Ready: %w", n.Name, errors.Join(problem, err))
		}
	}
	return nil
}

func ready(ctx context.Context, c client.Client, n layout.Node) error {
	var have corev1.Node
	if err := c.Get(ctx, client.ObjectKey{Name: n.Name}, &have); err != nil {
		return err
	}
	if have.Spec.PodCIDR == "" {
		changed := have.DeepCopy()
		changed.Spec.PodCIDR = n.PodCIDR.String()
		changed.Spec.PodCIDRs = []string{n.PodCIDR.String()}
		if err := c.Patch(ctx, changed, client.MergeFrom(&have)); err != nil {
			return fmt.Errorf("recording the pod network: %w", err)
		}
	}
	for _, condition := range have.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		if condition.Status != corev1.ConditionTrue {
			return fmt.Errorf("%s: %s", condition.Reason, condition.Message)
		}
		// A kubelet reports its status when it starts and then seldom, but renews
		// its lease every 10 s, beginning up to 10 s after its first start.
		if time.Since(condition.LastHeartbeatTime.Time) < stale {
			return nil
		}
		return fresh(ctx, c, n)
	}
	return errors.New("it has not reported yet")
}

// fresh tells whether the kubelet has renewed its lease lately: what its node's
// status says may be the last word of one that is gone.
func fresh(ctx context.Context, c client.Client, n layout.Node) error {
	var lease coordinationv1.Lease
	if err := c.Get(ctx, client.ObjectKey{Namespace: corev1.NamespaceNodeLease, Name: n.Name}, &lease); err != nil {
		return err
	}
	if lease.Spec.RenewTime == nil {
		return errors.New("its lease has never been renewed")
	}
	if age := time.Since(lease.Spec.RenewTime.Time); age > stale {
		return fmt.Errorf("no word from the kubelet for %s", age.Round(time.Second))
	}
	return nil
}
