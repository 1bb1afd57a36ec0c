package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/whereabouts"
)

const (
	// platformNamespace is where the chart's documents install the platform.
	platformNamespace = "bulkhead-system"
	// sideTimeout bounds how long each of those who are asked may take.
	sideTimeout = 15 * time.Second
)

type whereOptions struct {
	cluster, platform, output string
}

func newExplain(e *environment) *cobra.Command {
	o := whereOptions{platform: platformNamespace}
	command := &cobra.Command{
		Use:   "explain [NAMESPACE/]POD --vc NAME",
		Short: "Say where a tenant's pod is, what it waits for, and since when",
		Long: "Follows a pod of a virtual cluster from the tenant's cluster through the syncer, the super cluster's scheduler and its node\n" +
			"into its containers, and its status back. Whom it may not ask it leaves out, and says so. -n is the namespace of the virtual cluster.",
		Example: "  kubectl vc explain web-0 --vc demo\n  kubectl vc explain shop/web-0 --vc demo -n customers -o json",
		Args: func(command *cobra.Command, args []string) error {
			if len(args) != 1 || o.cluster == "" {
				return errors.New("give one pod and its virtual cluster: " + command.UseLine())
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, args []string) error {
			return e.where(command.Context(), args[0], o)
		},
	}
	command.Flags().StringVar(&o.cluster, "vc", "", "name of the virtual cluster")
	command.Flags().StringVar(&o.platform, "platform-namespace", o.platform, "namespace that the platform runs in")
	command.Flags().StringVarP(&o.output, "output", "o", "", "json, or empty for a table")
	must(command.RegisterFlagCompletionFunc("vc", e.completeVirtualClustersFlag))
	must(command.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json"}, cobra.ShellCompDirectiveNoFileComp)))
	return command
}

func (e *environment) where(ctx context.Context, name string, o whereOptions) error {
	if o.output != "" && o.output != "json" {
		return fmt.Errorf("unknown output %q: json, or none for a table", o.output)
	}
	key, err := podKey(name)
	if err != nil {
		return err
	}
	s, err := e.connect()
	if err != nil {
		return err
	}
	in, err := e.lookBothWays(ctx, s, key, o)
	if err != nil {
		return err
	}
	explanation := whereabouts.Explain(in)
	if o.output == "" {
		return explanation.Write(e.streams.Out, time.Now())
	}
	encoder := json.NewEncoder(e.streams.Out)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(explanation); err != nil {
		return fmt.Errorf("writing the explanation: %w", err)
	}
	return nil
}

// podKey reads [NAMESPACE/]POD.
func podKey(text string) (types.NamespacedName, error) {
	text = strings.TrimPrefix(text, "pod/")
	namespace, name, found := strings.Cut(text, "/")
	if !found {
		namespace, name = corev1.NamespaceDefault, text
	}
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return types.NamespacedName{}, fmt.Errorf("%q is no pod: give POD, or NAMESPACE/POD with the tenant's own namespace", text)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}

// lookBothWays asks all who know something about a pod. Only without the virtual
// cluster there is nothing to say.
func (e *environment) lookBothWays(ctx context.Context, s *super, key types.NamespacedName, o whereOptions) (whereabouts.Input, error) {
	vc, err := s.get(ctx, o.cluster)
	if err != nil {
		return whereabouts.Input{}, err
	}
	of := tenancy.Tenant{UID: vc.UID, Namespace: vc.Namespace, Name: vc.Name}
	in := whereabouts.Input{VirtualCluster: vc, Pod: key, SuperPod: types.NamespacedName{Namespace: of.SuperNamespace(key.Namespace), Name: key.Name}}
	in.Super = side(ctx, s, in.SuperPod)
	in.Super.PodErr = explain(in.Super.PodErr, s.server)
	if pod := in.Super.Pod; pod != nil {
		// One that is in the way is not the tenant's.
		if origin, ok := tenancy.OriginOf(pod); !ok || origin.Tenant != vc.UID || origin.Namespace != key.Namespace || origin.Name != key.Name {
			in.Super = whereabouts.Side{}
		}
	}
	in.Tenant = s.tenantSide(ctx, o.cluster, key)
	in.Syncer, in.SyncerErr = e.askSyncer(ctx, s, o.platform, of, key)
	return in, nil
}

// tenantSide reads the pod in the tenant's cluster, as its administrator.
func (s *super) tenantSide(ctx context.Context, name string, key types.NamespacedName) whereabouts.Side {
	content, err := s.adminKubeconfig(ctx, name)
	if err != nil {
		return whereabouts.Side{PodErr: fmt.Errorf("the tenant's cluster cannot be read: %w", err)}
	}
	config, err := kubeconfig.RESTConfig(content)
	if err != nil {
		return whereabouts.Side{PodErr: fmt.Errorf("the tenant's cluster cannot be read: %w", err)}
	}
	config.Timeout = sideTimeout
	c, err := client.New(config, client.Options{Scheme: s.Scheme()})
	if err != nil {
		return whereabouts.Side{PodErr: fmt.Errorf("the tenant's cluster %s cannot be read: %w", config.Host, err)}
	}
	found := side(ctx, c, key)
	if found.PodErr != nil {
		found.PodErr = fmt.Errorf("the tenant's cluster %s cannot be read: %w", config.Host, found.PodErr)
	}
	return found
}

// side reads a pod and what was said about it.
func side(ctx context.Context, c client.Reader, key types.NamespacedName) whereabouts.Side {
	ctx, cancel := context.WithTimeout(ctx, sideTimeout)
	defer cancel()
	pod := &corev1.Pod{}
	switch err := c.Get(ctx, key, pod); {
	case apierrors.IsNotFound(err):
		return whereabouts.Side{}
	case err != nil:
		return whereabouts.Side{PodErr: err}
	}
	events := &corev1.EventList{}
	err := c.List(ctx, events, client.InNamespace(key.Namespace), client.MatchingFieldsSelector{
		Selector: fields.OneTermEqualSelector("involvedObject.uid", string(pod.UID)),
	})
	return whereabouts.Side{Pod: pod, Events: events.Items, EventsErr: err}
}
