package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/phase"
)

type deleteOptions struct {
	wait    bool
	timeout time.Duration
}

func newDelete(e *environment) *cobra.Command {
	o := deleteOptions{}
	command := &cobra.Command{
		Use:   "delete NAME",
		Short: "Remove a virtual cluster with everything that runs in it",
		Long: "Remove a virtual cluster: its workloads, their volumes as their storage class says, and its control plane.\n" +
			"There is no way back.",
		Example:           "  kubectl vc delete demo --wait",
		Args:              oneName,
		ValidArgsFunction: e.completeVirtualClusters,
		RunE: func(command *cobra.Command, args []string) error {
			return e.delete(command.Context(), args[0], o)
		},
	}
	command.Flags().BoolVar(&o.wait, "wait", false, "wait until nothing is left of it, and show what is")
	command.Flags().DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long --wait waits; the deletion goes on after that")
	return command
}

func (e *environment) delete(ctx context.Context, name string, o deleteOptions) error {
	s, err := e.connect()
	if err != nil {
		return err
	}
	if o.wait {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	start := time.Now()
	vc, err := s.get(ctx, name)
	if err != nil {
		return err
	}
	// What is deleted is the one that was there when the user asked.
	if err := s.Delete(ctx, vc, client.Preconditions{UID: &vc.UID}); err != nil {
		return s.explainFor(err, name)
	}
	if !o.wait {
		fmt.Fprintln(e.streams.Out, reference(vc), "is being deleted")
		return nil
	}
	p := newProgress(e.streams.ErrOut, start)
	last := vc
	err = s.follow(ctx, vc, func(now *tenancyv1alpha1.VirtualCluster) bool {
		if now == nil {
			return true
		}
		last = now
		if now.DeletionTimestamp != nil {
			p.waits(phase.Waits(now))
		}
		return false
	})
	p.end()
	if err != nil {
		return waitEnded(ctx, err, fmt.Sprintf("virtual cluster %s is not gone yet, it waits %s\nThe deletion goes on; see `kubectl vc describe %[1]s%[3]s`",
			name, waitsAtDeletion(last), namespaceFlag(s.namespace)))
	}
	fmt.Fprintf(e.streams.Out, "%s deleted after %s\n", reference(vc), phase.Seconds(time.Since(start)))
	return nil
}

// waitsAtDeletion is phase.Waits of a virtual cluster whose deletion the
// API server has taken, whether or not that has been seen yet.
func waitsAtDeletion(vc *tenancyv1alpha1.VirtualCluster) string {
	vc = vc.DeepCopy()
	if vc.DeletionTimestamp == nil {
		vc.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	}
	return phase.Waits(vc)
}
