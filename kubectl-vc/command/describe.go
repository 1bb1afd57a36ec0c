package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/phase"
)

func newDescribe(e *environment) *cobra.Command {
	return &cobra.Command{
		Use:               "describe NAME",
		Short:             "Show a virtual cluster's conditions, endpoint, control plane and events",
		Args:              oneName,
		ValidArgsFunction: e.completeVirtualClusters,
		RunE: func(command *cobra.Command, args []string) error {
			return e.describe(command.Context(), args[0])
		},
	}
}

// description is all that describe shows. Where a part may not be read, the reason
// stands in its place.
type description struct {
	vc        *tenancyv1alpha1.VirtualCluster
	pods      []corev1.Pod
	podsErr   error
	events    []corev1.Event
	eventsErr error
}

func (e *environment) describe(ctx context.Context, name string) error {
	s, err := e.connect()
	if err != nil {
		return err
	}
	d := description{}
	if d.vc, err = s.get(ctx, name); err != nil {
		return err
	}
	if namespace := d.vc.Status.ControlPlaneNamespace; namespace != "" {
		pods := &corev1.PodList{}
		d.podsErr = explain(s.List(ctx, pods, client.InNamespace(namespace)), s.server)
		d.pods = pods.Items
	}
	events := &corev1.EventList{}
	d.eventsErr = explain(s.List(ctx, events, client.InNamespace(d.vc.Namespace), client.MatchingFieldsSelector{
		Selector: fields.OneTermEqualSelector("involvedObject.uid", string(d.vc.UID)),
	}), s.server)
	d.events = events.Items
	return d.write(e.streams.Out, time.Now())
}

func (d *description) write(out io.Writer, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	vc := d.vc
	fmt.Fprintf(w, "Name:\t%s\n", vc.Name)
	fmt.Fprintf(w, "Namespace:\t%s\n", vc.Namespace)
	fmt.Fprintf(w, "UID:\t%s\n", vc.UID)
	fmt.Fprintf(w, "Age:\t%s\n", age(vc.CreationTimestamp, now))
	if vc.DeletionTimestamp != nil {
		fmt.Fprintf(w, "Deleting:\tfor %s\n", age(*vc.DeletionTimestamp, now))
	}
	fmt.Fprintf(w, "Class:\t%s\n", vc.Spec.ClassName)
	fmt.Fprintf(w, "Service CIDR:\t%s\n", vc.Spec.ServiceCIDR)
	fmt.Fprintf(w, "Cluster domain:\t%s\n", vc.Spec.ClusterDomain)
	if len(vc.Spec.ExtraSANs) > 0 {
		fmt.Fprintf(w, "Extra SANs:\t%s\n", strings.Join(vc.Spec.ExtraSANs, ", "))
	}
	fmt.Fprintf(w, "Version:\t%s\n", orNone(vc.Status.Version))
	fmt.Fprintf(w, "Endpoint:\t%s\n", orNone(vc.Status.Endpoint))
	fmt.Fprintf(w, "Control plane in:\t%s\n", orNone(vc.Status.ControlPlaneNamespace))
	if waits := phase.Waits(vc); waits != "" {
		fmt.Fprintf(w, "Waits:\t%s\n", waits)
	}
	d.writeConditions(w, now)
	d.writePods(w, now)
	d.writeEvents(w, now)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing the description: %w", err)
	}
	return nil
}

func (d *description) writeConditions(w io.Writer, now time.Time) {
	fmt.Fprintln(w, "\nConditions:")
	if len(d.vc.Status.Conditions) == 0 {
		fmt.Fprintln(w, "  none yet")
		return
	}
	conditions := slices.Clone(d.vc.Status.Conditions)
	rank := func(c metav1.Condition) int {
		if i := slices.Index(phase.Order, c.Type); i >= 0 {
			return i
		}
		return len(phase.Order)
	}
	slices.SortStableFunc(conditions, func(a, b metav1.Condition) int { return cmp.Compare(rank(a), rank(b)) })
	fmt.Fprintln(w, "  TYPE\tSTATUS\tSINCE\tREASON\tMESSAGE")
	for _, c := range conditions {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", c.Type, c.Status, age(c.LastTransitionTime, now), c.Reason, oneLine(c.Message))
	}
}

func (d *description) writePods(w io.Writer, now time.Time) {
	fmt.Fprintln(w, "\nControl-plane pods:")
	switch {
	case d.podsErr != nil:
		fmt.Fprintf(w, "  %s\n", oneLine(d.podsErr.Error()))
		return
	case len(d.pods) == 0:
		fmt.Fprintln(w, "  none")
		return
	}
	slices.SortFunc(d.pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	fmt.Fprintln(w, "  NAME\tREADY\tSTATUS\tRESTARTS\tAGE\tNODE")
	for i := range d.pods {
		pod := &d.pods[i]
		ready, restarts := 0, int32(0)
		for _, status := range pod.Status.ContainerStatuses {
			restarts += status.RestartCount
			if status.Ready {
				ready++
			}
		}
		fmt.Fprintf(w, "  %s\t%d/%d\t%s\t%d\t%s\t%s\n", pod.Name, ready, len(pod.Spec.Containers), podStatus(pod), restarts,
			age(pod.CreationTimestamp, now), orNone(pod.Spec.NodeName))
	}
}

// podStatus is the pod's phase, or what a container of it waits for or ended by.
func podStatus(pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return "Terminating"
	}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		switch {
		case status.State.Waiting != nil && status.State.Waiting.Reason != "":
			return status.State.Waiting.Reason
		case status.State.Terminated != nil && status.State.Terminated.ExitCode != 0:
			return status.State.Terminated.Reason
		}
	}
	return string(pod.Status.Phase)
}

func (d *description) writeEvents(w io.Writer, now time.Time) {
	fmt.Fprintln(w, "\nEvents:")
	switch {
	case d.eventsErr != nil:
		fmt.Fprintf(w, "  %s\n", oneLine(d.eventsErr.Error()))
		return
	case len(d.events) == 0:
		fmt.Fprintln(w, "  none")
		return
	}
	slices.SortStableFunc(d.events, func(a, b corev1.Event) int { return eventTime(a).Compare(eventTime(b)) })
	fmt.Fprintln(w, "  AGE\tTYPE\tREASON\tFROM\tMESSAGE")
	for _, event := range d.events {
		from := cmp.Or(event.ReportingController, event.Source.Component)
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", age(metav1.NewTime(eventTime(event)), now), event.Type, event.Reason, orNone(from), oneLine(event.Message))
	}
}

// eventTime is when an event last happened, whichever API it was written by.
func eventTime(event corev1.Event) time.Time {
	switch {
	case event.Series != nil:
		return event.Series.LastObservedTime.Time
	case !event.LastTimestamp.IsZero():
		return event.LastTimestamp.Time
	case !event.EventTime.IsZero():
		return event.EventTime.Time
	}
	return event.CreationTimestamp.Time
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
