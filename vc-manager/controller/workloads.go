package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// explainAfter is how old a workload is before its pods are asked why it is not
// ready. Before, the answer is always that it starts.
const explainAfter = 5 * time.Second

// ensureWorkloads makes the pods run, all at once: each component waits by itself
// for the one it needs.
func (p *pass) ensureWorkloads(ctx context.Context) error {
	if err := p.keepStorage(ctx); err != nil {
		return err
	}
	stored, err := p.applier.All(ctx, p.Client, p.tenant, controlplane.Workloads(p.input))
	if err != nil {
		return err
	}
	if err := p.removeUnwanted(ctx); err != nil {
		return err
	}
	for _, workload := range stored {
		switch workload := workload.(type) {
		case *appsv1.StatefulSet:
			p.report(ctx, tenancyv1alpha1.ConditionEtcdReady, workload, workload.Status.ReadyReplicas > 0)
		case *appsv1.Deployment:
			// What is rolled out counts as ready while the old pod serves.
			ready := workload.Status.ReadyReplicas > 0
			switch workload.Name {
			case controlplane.APIServer:
				// Whether it serves is seen by reading; its pod says when to look, and
				// why it does not.
				if ready != p.isTrue(tenancyv1alpha1.ConditionAPIServerReady) {
					p.tenants.Look(p.vc.UID)
				}
				if !ready {
					p.apiServerTrouble = p.trouble(ctx, workload)
				}
			case controlplane.ControllerManager:
				p.report(ctx, tenancyv1alpha1.ConditionControllerManagerReady, workload, ready)
			case controlplane.Scheduler:
				p.report(ctx, tenancyv1alpha1.ConditionSchedulerReady, workload, ready)
			}
		}
	}
	return nil
}

// keepStorage goes on with the volume that etcd has: that of a StatefulSet cannot
// change, so a class's new size is for new virtual clusters.
func (p *pass) keepStorage(ctx context.Context) error {
	present := &appsv1.StatefulSet{}
	key := client.ObjectKey{Namespace: p.tenant.ControlPlaneNamespace(), Name: controlplane.Etcd}
	if err := p.Client.Get(ctx, key, present); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("reading statefulset %s: %w", key, err)
	}
	for _, claim := range present.Spec.VolumeClaimTemplates {
		if claim.Name != controlplane.EtcdData {
			continue
		}
		p.input.Class.Etcd.Storage = tenancyv1alpha1.StorageSpec{Size: claim.Spec.Resources.Requests[corev1.ResourceStorage]}
		if claim.Spec.StorageClassName != nil {
			p.input.Class.Etcd.Storage.StorageClassName = *claim.Spec.StorageClassName
		}
	}
	return nil
}

// removeUnwanted takes away what the class has no more. The keys of a component must
// not outlive it: they open the tenant's apiserver for a year.
func (p *pass) removeUnwanted(ctx context.Context) error {
	if !controlplane.SchedulerWanted(p.input) {
		meta.RemoveStatusCondition(&p.status.Conditions, tenancyv1alpha1.ConditionSchedulerReady)
	}
	unwanted := controlplane.Unwanted(p.input)
	due, err := p.removalDue(ctx, unwanted)
	if !due || err != nil {
		return err
	}
	for _, object := range append(p.unwantedSecrets(), unwanted...) {
		_, err := p.applier.Delete(ctx, p.tenant, object)
		// What is not ours is in nobody's way here.
		if foreign := new(tenancy.ForeignError); err != nil && !errors.As(err, &foreign) {
			return err
		}
	}
	return nil
}

// removalDue tells whether to look for leftovers: when everything is looked at, and as
// long as a Deployment is there, which goes last.
func (p *pass) removalDue(ctx context.Context, unwanted []client.Object) (bool, error) {
	if p.verifying {
		return true, nil
	}
	for _, object := range unwanted {
		if _, is := object.(*appsv1.Deployment); !is {
			continue
		}
		err := p.Client.Get(ctx, client.ObjectKeyFromObject(object), &appsv1.Deployment{})
		if err == nil || !apierrors.IsNotFound(err) {
			return err == nil, err
		}
	}
	return false, nil
}

func (p *pass) unwantedSecrets() []client.Object {
	every := p.cluster
	every.Scheduler, every.MetricsServer = true, true
	wanted := certificates.SecretNames(p.cluster)
	var unwanted []client.Object
	for _, name := range certificates.SecretNames(every) {
		if !slices.Contains(wanted, name) {
			unwanted = append(unwanted, &corev1.Secret{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
				ObjectMeta: metav1.ObjectMeta{Namespace: p.tenant.ControlPlaneNamespace(), Name: name},
			})
		}
	}
	return unwanted
}

// report sets a workload's condition.
func (p *pass) report(ctx context.Context, condition string, workload client.Object, ready bool) {
	if ready {
		p.done(condition, workload.GetName()+" is ready")
		return
	}
	p.wait(condition, p.trouble(ctx, workload))
}

// trouble looks at a workload's pods for what keeps it from being ready.
func (p *pass) trouble(ctx context.Context, workload client.Object) string {
	if p.Now().Sub(workload.GetCreationTimestamp().Time) < explainAfter {
		return workload.GetName() + " is starting"
	}
	var pods corev1.PodList
	err := p.Live.List(ctx, &pods, client.InNamespace(workload.GetNamespace()),
		client.MatchingLabels{controlplane.LabelComponent: workload.GetName(), tenancy.LabelTenant: string(p.tenant.UID)})
	if err != nil {
		return fmt.Sprintf("%s is not ready, and its pods cannot be read: %v", workload.GetName(), err)
	}
	if len(pods.Items) == 0 {
		return workload.GetName() + " has no pod yet"
	}
	for _, pod := range pods.Items {
		if why := podTrouble(&pod); why != "" {
			return fmt.Sprintf("pod %s/%s: %s", pod.Namespace, pod.Name, why)
		}
	}
	return workload.GetName() + " is starting"
}

// podTrouble says in the super cluster's own words why a pod is not ready.
func podTrouble(pod *corev1.Pod) string {
	for _, status := range pod.Status.ContainerStatuses {
		if waiting := status.State.Waiting; waiting != nil && waiting.Reason != "ContainerCreating" {
			return joinReason(waiting.Reason, waiting.Message)
		}
		if ended := status.State.Terminated; ended != nil {
			return joinReason(ended.Reason, ended.Message)
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return joinReason(condition.Reason, condition.Message)
		}
	}
	return ""
}

func joinReason(reason, message string) string {
	if message == "" {
		return reason
	}
	return reason + ": " + message
}
