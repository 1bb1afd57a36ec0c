package command

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// completionTimeout bounds how long a shell hangs on the Tab key.
const completionTimeout = 3 * time.Second

// completeVirtualClusters completes the one NAME of a verb.
func (e *environment) completeVirtualClusters(command *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list := &tenancyv1alpha1.VirtualClusterList{}
	return e.completeFrom(command.Context(), list, func(s *super) []client.ListOption {
		return []client.ListOption{client.InNamespace(s.namespace)}
	}, func() []string {
		names := make([]string, 0, len(list.Items))
		for i := range list.Items {
			names = append(names, list.Items[i].Name+"\tReady: "+readiness(&list.Items[i]))
		}
		return names
	}, typed)
}

// completeVirtualClustersFlag completes a flag that names one.
func (e *environment) completeVirtualClustersFlag(command *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	return e.completeVirtualClusters(command, nil, typed)
}

func (e *environment) completeClasses(command *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	list := &tenancyv1alpha1.VirtualClusterClassList{}
	return e.completeFrom(command.Context(), list, nil, func() []string {
		names := make([]string, 0, len(list.Items))
		for _, class := range list.Items {
			names = append(names, class.Name)
		}
		return names
	}, typed)
}

func (e *environment) completeNamespaces(command *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	return e.completeFrom(command.Context(), list, nil, func() []string {
		names := make([]string, 0, len(list.Items))
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return names
	}, typed)
}

func (e *environment) completeContexts(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	config, err := e.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := make([]string, 0, len(config.Contexts))
	for name := range config.Contexts {
		names = append(names, name)
	}
	return matching(names, typed), cobra.ShellCompDirectiveNoFileComp
}

// completeFrom completes from a list of the super cluster. A cluster that does not
// answer completes to nothing: there is no place to show an error.
func (e *environment) completeFrom(ctx context.Context, list client.ObjectList, options func(*super) []client.ListOption, names func() []string, typed string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	s, err := e.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var chosen []client.ListOption
	if options != nil {
		chosen = options(s)
	}
	if err := s.List(ctx, list, chosen...); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return matching(names(), typed), cobra.ShellCompDirectiveNoFileComp
}

func matching(names []string, typed string) []string {
	var found []string
	for _, name := range names {
		if strings.HasPrefix(name, typed) {
			found = append(found, name)
		}
	}
	return found
}
