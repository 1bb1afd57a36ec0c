package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/phase"
)

type createOptions struct {
	class       string
	serviceCIDR string
	wait        bool
	timeout     time.Duration
}

func newCreate(e *environment) *cobra.Command {
	o := createOptions{}
	command := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a virtual cluster",
		Example: "  # Make one and see how long each phase takes\n" +
			"  kubectl vc create demo --wait\n\n" +
			"  # Of another class, with Service addresses of your choice\n" +
			"  kubectl vc create demo --class small --service-cidr 10.100.0.0/16",
		Args:              oneName,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, args []string) error {
			return e.create(command.Context(), args[0], o)
		},
	}
	command.Flags().StringVar(&o.class, "class", "", "VirtualClusterClass (default the class \"default\")")
	command.Flags().StringVar(&o.serviceCIDR, "service-cidr", "", "range of the virtual cluster's Service addresses (default 10.96.0.0/16)")
	command.Flags().BoolVar(&o.wait, "wait", false, "wait until it is Ready, show progress and the time of each phase")
	command.Flags().DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long --wait waits; the virtual cluster goes on being made after that")
	must(command.RegisterFlagCompletionFunc("class", e.completeClasses))
	return command
}

func (e *environment) create(ctx context.Context, name string, o createOptions) error {
	s, err := e.connect()
	if err != nil {
		return err
	}
	if o.wait {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	vc := &tenancyv1alpha1.VirtualCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name},
		Spec:       tenancyv1alpha1.VirtualClusterSpec{ClassName: o.class, ServiceCIDR: o.serviceCIDR},
	}
	start := time.Now()
	if err := s.Create(ctx, vc); err != nil {
		return s.explainFor(err, name)
	}
	fmt.Fprintln(e.streams.Out, reference(vc), "created")
	if !o.wait {
		return nil
	}
	return e.waitReady(ctx, s, vc, start)
}

// waitReady shows how a virtual cluster becomes Ready, and at the end the share of
// each phase.
func (e *environment) waitReady(ctx context.Context, s *super, vc *tenancyv1alpha1.VirtualCluster, start time.Time) error {
	timeline := phase.NewTimeline(start)
	p := newProgress(e.streams.ErrOut, start)
	last := vc
	err := s.follow(ctx, vc, func(now *tenancyv1alpha1.VirtualCluster) bool {
		seen := time.Now()
		if last = now; now == nil {
			return true
		}
		for _, condition := range timeline.Observe(now, seen) {
			p.reached(seen, condition)
		}
		p.waits(phase.Waits(now))
		return phase.Ready(now)
	})
	p.end()
	switch {
	case last == nil:
		return fmt.Errorf("virtual cluster %s was deleted while it was being made", vc.Name)
	case err != nil:
		return waitEnded(ctx, err, fmt.Sprintf("virtual cluster %s is not Ready yet, it waits %s\nIt goes on being made; see `kubectl vc describe %[1]s%[3]s`",
			vc.Name, phase.Waits(last), namespaceFlag(s.namespace)))
	}
	if err := timeline.WriteTable(e.streams.Out); err != nil {
		return err
	}
	fmt.Fprintf(e.streams.Out, "virtual cluster %s is Ready after %s; get its kubeconfig with `kubectl vc kubeconfig %[1]s%[3]s`\n",
		vc.Name, phase.Seconds(timeline.After(tenancyv1alpha1.ConditionReady)), namespaceFlag(s.namespace))
	return nil
}

// waitEnded is the error of a wait that ended before its aim: state says how things
// stand.
func waitEnded(ctx context.Context, err error, state string) error {
	switch {
	case ctx.Err() == nil:
		return err
	case ended(ctx) == ErrInterrupted.Error():
		return fmt.Errorf("%w: %s", ErrInterrupted, state)
	}
	return fmt.Errorf("%s: %s", ended(ctx), state)
}
