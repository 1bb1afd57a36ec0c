// Package addon puts into the super cluster what any cluster has besides its
// control plane: DNS, storage and the apiserver's rights at the kubelets.
package addon

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/template"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/superplane"
)

//go:embed manifests
var manifests embed.FS

// fieldManager is who owns the addons' fields in server-side apply.
const fieldManager = "bulkhead-local"

const (
	applyTimeout = 30 * time.Second
	readyTimeout = 3 * time.Minute
	pollEvery    = 200 * time.Millisecond
)

// Deployments are the workloads that Await waits for.
var Deployments = []types.NamespacedName{
	{Namespace: "kube-system", Name: "coredns"},
	{Namespace: "local-path-storage", Name: "local-path-provisioner"},
}

// Objects renders all addons for a cluster with the given settings. upstream tells
// whether the nodes have a name server to pass on to what the cluster does not know.
func Objects(s layout.Settings, upstream bool) ([]*unstructured.Unstructured, error) {
	paths, err := fs.Glob(manifests, "manifests/*.tmpl")
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for _, path := range paths {
		t, err := template.ParseFS(manifests, path)
		if err != nil {
			return nil, err
		}
		var text bytes.Buffer
		if err := t.Execute(&text, map[string]any{
			"DNS":           s.DNSServiceIP().String(),
			"Domain":        layout.ClusterDomain,
			"Volumes":       layout.NodeVolumes,
			"KubeletClient": superplane.KubeletClientName,
			"Upstream":      upstream,
		}); err != nil {
			return nil, err
		}
		decoder := yaml.NewYAMLOrJSONDecoder(&text, 4096)
		for {
			object := &unstructured.Unstructured{}
			err := decoder.Decode(object)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			objects = append(objects, object)
		}
	}
	return objects, nil
}

// Apply makes the addons in the cluster as this version has them; see Objects.
func Apply(ctx context.Context, c client.Client, s layout.Settings, upstream bool) error {
	objects, err := Objects(s, upstream)
	if err != nil {
		return err
	}
	for _, object := range objects {
		// A new apiserver makes its own namespaces and roles in its first seconds,
		// and refuses some requests until then.
		var last error
		err := wait.PollUntilContextTimeout(ctx, pollEvery, applyTimeout, true, func(ctx context.Context) (bool, error) {
			last = c.Apply(ctx, client.ApplyConfigurationFromUnstructured(object.DeepCopy()), client.FieldOwner(fieldManager), client.ForceOwnership)
			return last == nil, nil
		})
		if err != nil {
			return fmt.Errorf("applying %s %s: %w", object.GetKind(), client.ObjectKeyFromObject(object), errors.Join(err, last))
		}
	}
	return nil
}

// Await waits until the addons' deployments are available in their present version.
func Await(ctx context.Context, c client.Client, step func(string, ...any)) error {
	for _, key := range Deployments {
		step("%s", key.Name)
		var problem string
		err := wait.PollUntilContextTimeout(ctx, pollEvery, readyTimeout, true, func(ctx context.Context) (bool, error) {
			var d appsv1.Deployment
			if err := c.Get(ctx, key, &d); err != nil {
				if ctx.Err() == nil { // the end of the wait explains nothing
					problem = err.Error()
				}
				return false, nil
			}
			problem = fmt.Sprintf("%d of %d pods are available", d.Status.AvailableReplicas, *d.Spec.Replicas)
			return Available(&d), nil
		})
		if err != nil {
			return fmt.Errorf("deployment %s is not available: %s%s: look at `kubectl describe pods -n %s`: %w", key, problem, waiting(ctx, c, key), key.Namespace, err)
		}
	}
	return nil
}

// waiting says what the containers of a deployment wait for.
func waiting(ctx context.Context, c client.Client, key types.NamespacedName) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace(key.Namespace)); err != nil {
		return ""
	}
	var text strings.Builder
	for _, pod := range pods.Items {
		for _, s := range pod.Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil && strings.HasPrefix(pod.Name, key.Name) {
				fmt.Fprintf(&text, "; pod %s: %s %s", pod.Name, w.Reason, w.Message)
			}
		}
	}
	return text.String()
}

// Available tells whether all pods of the deployment's present version are available.
func Available(d *appsv1.Deployment) bool {
	return d.Status.ObservedGeneration >= d.Generation && d.Spec.Replicas != nil &&
		d.Status.UpdatedReplicas == *d.Spec.Replicas && d.Status.AvailableReplicas == *d.Spec.Replicas &&
		d.Status.Replicas == *d.Spec.Replicas
}
