// Package platform installs Bulkhead into the embedded super cluster with its own
// Helm chart, and makes the virtual cluster "demo" with a running workload. It
// does nothing that an operator of any other super cluster could not do with
// helm, kubectl and kubectl-vc.
package platform

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/local/image"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/node"
	"github.com/bulkhead-dev/bulkhead/local/progress"
)

// Release is the Helm release, Namespace where the platform's programs run.
const (
	Release   = "bulkhead"
	Namespace = "bulkhead-system"
)

// installTimeout bounds the wait until all of the platform's pods are ready; the
// first time the nodes pull and unpack the images.
const installTimeout = 5 * time.Minute

// Install installs the chart or brings its release up to date, and returns when
// all of the platform's pods are ready.
func Install(ctx context.Context, l layout.Layout, s layout.Settings, images []image.Ref, step func(format string, a ...any)) error {
	chosen, err := Values(s, node.Resolvers(), images)
	if err != nil {
		return err
	}
	values, err := yaml.Marshal(chosen)
	if err != nil {
		return fmt.Errorf("encoding the chart's values: %w", err)
	}
	step("helm upgrade --install %s", Release)
	command := tool(ctx, l, "helm", "upgrade", "--install", Release, filepath.Join(l.Root, "charts", "bulkhead"),
		"--namespace", Namespace, "--create-namespace", "--values", "-",
		"--wait", "--timeout", installTimeout.String())
	command.Stdin = bytes.NewReader(values)
	return run(l, command, "helm.log", "installing the platform's chart")
}

// registry is the name that our own images go by.
const registry = "registry.bulkhead.dev"

// Values are the chart's values for the embedded super cluster: our images by
// digest, because the tag stays the same while their content changes, and the
// control planes' programs from the hyperkube image. Its network enforces no
// policies, so the platform's own fence does. resolvers are the name servers that
// nodes ask, and tenants' DNS with them.
func Values(s layout.Settings, resolvers []netip.Addr, images []image.Ref) (map[string]any, error) {
	values := map[string]any{
		"defaultClass": map[string]any{
			"spec": map[string]any{"exposure": map[string]any{"type": "NodePort"}},
		},
		"tenantNetwork": map[string]any{"pods": []string{s.PodCIDR.String()}, "resolvers": texts(resolvers)},
	}
	for key, repository := range map[string]string{
		"vcManager": "vc-manager", "syncer": "syncer", "vnAgent": "vn-agent", "tenantProxy": "tenant-proxy", "fence": "fence",
		"abm": "abm",
	} {
		tag, digest, err := find(images, repository)
		if err != nil {
			return nil, err
		}
		values[key] = map[string]any{"image": map[string]any{
			"registry": registry, "repository": repository, "tag": tag, "digest": digest,
		}}
	}
	for _, optional := range []string{"fence", "abm"} {
		values[optional].(map[string]any)["enabled"] = true
	}
	tag, digest, err := find(images, "hyperkube")
	if err != nil {
		return nil, err
	}
	hyperkube := registry + "/hyperkube:" + tag + "@" + digest
	values["controlPlaneImages"] = map[string]any{
		"etcd": hyperkube, "kubeApiserver": hyperkube, "kubeControllerManager": hyperkube, "kubeScheduler": hyperkube,
	}
	return values, nil
}

func texts(addresses []netip.Addr) []string {
	list := make([]string, 0, len(addresses))
	for _, address := range addresses {
		list = append(list, address.String())
	}
	return list
}

// find returns tag and digest of one of our own images.
func find(images []image.Ref, repository string) (tag, digest string, err error) {
	for _, ref := range images {
		if rest, ok := strings.CutPrefix(ref.Name, registry+"/"+repository+":"); ok {
			return rest, ref.Digest, nil
		}
	}
	return "", "", fmt.Errorf("image %s/%s was not assembled", registry, repository)
}

// tool is a command of bin/ that talks to the super cluster and keeps its own
// state below .local/.
func tool(ctx context.Context, l layout.Layout, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, filepath.Join(l.Bin(), name), args...)
	state := filepath.Join(l.State(), "helm")
	command.Env = append(os.Environ(),
		"KUBECONFIG="+l.SuperKubeconfig(),
		"HELM_CACHE_HOME="+filepath.Join(state, "cache"),
		"HELM_CONFIG_HOME="+filepath.Join(state, "config"),
		"HELM_DATA_HOME="+filepath.Join(state, "data"),
		"KUBECACHEDIR="+filepath.Join(l.State(), "kubectl"),
	)
	return command
}

// run runs the command with its output in a log, which the error names.
func run(l layout.Layout, command *exec.Cmd, log, doing string) error {
	path := filepath.Join(l.Logs(), log)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("%s: opening its log: %w", doing, err)
	}
	defer file.Close()
	command.Stdout, command.Stderr = file, file
	if err := command.Run(); err != nil {
		return &progress.LogError{Err: fmt.Errorf("%s: %w", doing, err), Log: path}
	}
	return nil
}
