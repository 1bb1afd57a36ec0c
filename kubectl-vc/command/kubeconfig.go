package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/phase"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/userconfig"
)

type kubeconfigOptions struct {
	merge  bool
	name   string
	output string
}

func newKubeconfig(e *environment) *cobra.Command {
	o := kubeconfigOptions{}
	command := &cobra.Command{
		Use:   "kubeconfig NAME",
		Short: "Get the administrator's kubeconfig of a virtual cluster",
		Long: "Write the kubeconfig with which a virtual cluster's administrator uses it: to standard output, to a file, or into\n" +
			"your own kubeconfig as a further context. It verifies the virtual cluster by its certificate authority.",
		Example: "  kubectl vc kubeconfig demo --output demo.kubeconfig\n" +
			"  kubectl --kubeconfig demo.kubeconfig get pods -A\n\n" +
			"  # As a context of your own kubeconfig\n" +
			"  kubectl vc kubeconfig demo --merge\n" +
			"  kubectl --context demo get pods -A",
		Args:              oneName,
		ValidArgsFunction: e.completeVirtualClusters,
		RunE: func(command *cobra.Command, args []string) error {
			return e.kubeconfig(command.Context(), args[0], o)
		},
	}
	command.Flags().BoolVar(&o.merge, "merge", false, "add it as a context to your own kubeconfig, or to the file of --output")
	command.Flags().StringVar(&o.name, "name", "", "name of the context that --merge adds (default NAME)")
	command.Flags().StringVar(&o.output, "output", "", "file to write instead of standard output")
	must(command.RegisterFlagCompletionFunc("name", cobra.NoFileCompletions))
	return command
}

func (e *environment) kubeconfig(ctx context.Context, name string, o kubeconfigOptions) error {
	if o.name != "" && !o.merge {
		return errors.New("--name goes with --merge")
	}
	s, err := e.connect()
	if err != nil {
		return err
	}
	content, err := s.adminKubeconfig(ctx, name)
	if err != nil {
		return err
	}
	switch {
	case o.merge:
		return e.merge(ctx, s, name, o, content)
	case o.output != "":
		if err := userconfig.WriteFile(o.output, content); err != nil {
			return err
		}
		fmt.Fprintf(e.streams.ErrOut, "wrote %s\n", o.output)
		return nil
	}
	if _, err := e.streams.Out.Write(content); err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	return nil
}

func (e *environment) merge(ctx context.Context, s *super, name string, o kubeconfigOptions, content []byte) error {
	file := o.output
	if file == "" {
		// The file that `kubectl config` would change.
		file = e.flags.ToRawKubeConfigLoader().ConfigAccess().GetDefaultFilename()
	}
	if o.name == "" {
		o.name = name
	}
	identity := userconfig.Identity{SuperCluster: s.server, VirtualCluster: s.namespace + "/" + name}
	if err := userconfig.Merge(ctx, file, o.name, identity, content); err != nil {
		return err
	}
	fmt.Fprintf(e.streams.ErrOut, "added context %q to %s; use it with `kubectl --context %[1]s ...` or `kubectl config use-context %[1]s`\n", o.name, file)
	return nil
}

// adminKubeconfig reads the kubeconfig of a virtual cluster that is Ready.
func (s *super) adminKubeconfig(ctx context.Context, name string) ([]byte, error) {
	vc, err := s.get(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case vc.DeletionTimestamp != nil:
		return nil, fmt.Errorf("virtual cluster %s is being deleted", name)
	case !phase.Ready(vc):
		return nil, fmt.Errorf("virtual cluster %s is not Ready, so its kubeconfig would not work: it waits %s", name, phase.Waits(vc))
	}
	key := client.ObjectKey{Namespace: vc.Status.ControlPlaneNamespace, Name: tenancy.AdminKubeconfigSecret}
	secret := &corev1.Secret{}
	switch err := s.Get(ctx, key, secret); {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("virtual cluster %s is Ready, but its secret %s is not there: vc-manager will make it anew; try again", name, key)
	case err != nil:
		return nil, fmt.Errorf("reading secret %s: %w", key, explain(err, s.server))
	}
	content := secret.Data[tenancy.KubeconfigKey]
	if _, err := kubeconfig.RESTConfig(content); err != nil {
		return nil, fmt.Errorf("secret %s of virtual cluster %s/%s: %w", key, vc.Namespace, name, err)
	}
	return content, nil
}
