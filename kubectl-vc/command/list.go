package command

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/phase"
)

type listOptions struct {
	all   bool
	print *genericclioptions.PrintFlags
}

// outputWide is the table with more columns; the other formats are cli-runtime's.
const outputWide = "wide"

func newList(e *environment) *cobra.Command {
	o := listOptions{print: genericclioptions.NewPrintFlags("")}
	command := &cobra.Command{
		Use:               "list",
		Aliases:           []string{"ls"},
		Short:             "List virtual clusters",
		Example:           "  kubectl vc list -A\n  kubectl vc list -o yaml",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, _ []string) error {
			return e.list(command.Context(), o)
		},
	}
	command.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "those of all namespaces")
	o.print.AddFlags(command)
	command.Flags().Lookup("output").Usage = "wide, " + strings.Join(o.print.AllowedFormats(), ", ")
	must(command.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(append([]string{outputWide}, o.print.AllowedFormats()...), cobra.ShellCompDirectiveNoFileComp)))
	return command
}

func (e *environment) list(ctx context.Context, o listOptions) error {
	output := *o.print.OutputFormat
	var printer printers.ResourcePrinter
	if output != "" && output != outputWide {
		var err error
		if printer, err = o.print.ToPrinter(); err != nil {
			return err
		}
	}
	s, err := e.connect()
	if err != nil {
		return err
	}
	options := client.ListOptions{Namespace: s.namespace}
	if o.all {
		options.Namespace = metav1.NamespaceAll
	}
	list := &tenancyv1alpha1.VirtualClusterList{}
	if err := s.List(ctx, list, &options); err != nil {
		return explain(err, s.server)
	}
	slices.SortFunc(list.Items, func(a, b tenancyv1alpha1.VirtualCluster) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	if printer != nil {
		return printAll(printer, list, e.streams.Out)
	}
	if len(list.Items) == 0 {
		where := "in namespace " + s.namespace
		if o.all {
			where = "in any namespace"
		}
		fmt.Fprintf(e.streams.ErrOut, "no virtual clusters %s; make one with `kubectl vc create NAME`\n", where)
		return nil
	}
	table := printers.NewTablePrinter(printers.PrintOptions{Wide: output == outputWide, WithNamespace: o.all})
	return table.PrintObj(asTable(list, time.Now()), e.streams.Out)
}

// printAll prints the list as the API server would send it: jsonpath and templates
// go by its field names, not Go's.
func printAll(printer printers.ResourcePrinter, list *tenancyv1alpha1.VirtualClusterList, out io.Writer) error {
	list.SetGroupVersionKind(tenancyv1alpha1.GroupVersion.WithKind("VirtualClusterList"))
	whole := &unstructured.UnstructuredList{}
	for i := range list.Items {
		list.Items[i].SetGroupVersionKind(tenancyv1alpha1.GroupVersion.WithKind("VirtualCluster"))
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&list.Items[i])
		if err != nil {
			return fmt.Errorf("converting virtual cluster %s: %w", list.Items[i].Name, err)
		}
		whole.Items = append(whole.Items, unstructured.Unstructured{Object: content})
	}
	whole.SetGroupVersionKind(list.GroupVersionKind())
	whole.SetResourceVersion(list.ResourceVersion)
	if err := printer.PrintObj(whole, out); err != nil {
		return fmt.Errorf("printing the virtual clusters: %w", err)
	}
	return nil
}

// asTable is the list as people read it.
func asTable(list *tenancyv1alpha1.VirtualClusterList, now time.Time) *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string"},
		{Name: "Ready", Type: "string"},
		{Name: "Class", Type: "string"},
		{Name: "Version", Type: "string"},
		{Name: "Age", Type: "string"},
		{Name: "Endpoint", Type: "string", Priority: 1},
		{Name: "Control-Plane-Namespace", Type: "string", Priority: 1},
		{Name: "Waits", Type: "string", Priority: 1},
	}}
	for i := range list.Items {
		vc := &list.Items[i]
		table.Rows = append(table.Rows, metav1.TableRow{
			Cells: []any{
				vc.Name, readiness(vc), vc.Spec.ClassName, orNone(vc.Status.Version), age(vc.CreationTimestamp, now),
				orNone(vc.Status.Endpoint), orNone(vc.Status.ControlPlaneNamespace), orNone(phase.Waits(vc)),
			},
			Object: runtime.RawExtension{Object: vc},
		})
	}
	return table
}

// readiness is one word on how a virtual cluster is, with the reason where it is not Ready.
func readiness(vc *tenancyv1alpha1.VirtualCluster) string {
	condition := meta.FindStatusCondition(vc.Status.Conditions, tenancyv1alpha1.ConditionReady)
	switch {
	case vc.DeletionTimestamp != nil:
		return "Deleting"
	case condition == nil:
		return "Unknown"
	case condition.Status == metav1.ConditionTrue:
		return "True"
	}
	return fmt.Sprintf("%s (%s)", condition.Status, condition.Reason)
}

func orNone(text string) string {
	if text == "" {
		return "<none>"
	}
	return text
}

func age(since metav1.Time, now time.Time) string {
	if since.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(since.Time))
}
