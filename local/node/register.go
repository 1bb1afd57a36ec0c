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
	"github.com/bulkhead-dev/bulkhead/local/process"
	"github.com/bulkhead-dev/bulkhead/local/progress"
)

// registerTimeout is how long a node may take to be Ready once its programs run.
const registerTimeout = 90 * time.Second

// AwaitReady waits until each node is Ready in the cluster, in the words of the
// kubelet that runs now, and records in it the pod network that the node has.
func AwaitReady(ctx context.Context, c client.Client, m process.Manager, nodes []layout.Node, step func(string, ...any)) error {
	for _, n := range nodes {
		step("waiting for %s to be Ready", n.Name)
		state, log := m.State(n.Name + "-" + kubelet)
		var problem error
		err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, registerTimeout, true, func(ctx context.Context) (bool, error) {
			err := ready(ctx, c, n, state.Started)
			if ctx.Err() == nil { // the end of the wait explains nothing
				problem = err
			}
			return err == nil, nil
		})
		if err != nil {
			return &progress.LogError{Err: fmt.Errorf("node %s is not Ready: %w", n.Name, errors.Join(problem, err)), Log: log}
		}
	}
	return nil
}

func ready(ctx context.Context, c client.Client, n layout.Node, since time.Time) error {
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
		// What a former kubelet said last does not count. A kubelet reports its status
		// when it starts and then seldom, but renews its lease every 10 s, beginning
		// up to 10 s after its first start. Status times are in whole seconds.
		if condition.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)) {
			return renewed(ctx, c, n, since)
		}
		return nil
	}
	return errors.New("it has not reported yet")
}

// renewed tells whether the kubelet has renewed its lease since a time.
func renewed(ctx context.Context, c client.Client, n layout.Node, since time.Time) error {
	var lease coordinationv1.Lease
	if err := c.Get(ctx, client.ObjectKey{Namespace: corev1.NamespaceNodeLease, Name: n.Name}, &lease); err != nil {
		return err
	}
	if lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Time.Before(since) {
		return errors.New("the kubelet that was started has not reported yet")
	}
	return nil
}
