package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/types"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/apply"
	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// Intervals between passes that nothing else asks for. Objects that are not watched
// (Secrets, so that vc-manager needs no right to list those of the super cluster)
// are looked at that often.
const (
	verifyInterval   = 10 * time.Minute
	troubledInterval = 10 * time.Second
)

// pass is one look at one virtual cluster, from its class down to its apiserver.
// It collects conditions on the way.
type pass struct {
	*Reconciler
	vc      *tenancyv1alpha1.VirtualCluster
	tenant  tenancy.Tenant
	applier *apply.Applier
	known   *knowledge

	input    controlplane.Input
	cluster  certificates.Cluster
	exposure exposure
	classErr error
	// verifying says whether this pass compares every object with what it shall be,
	// or only those that are in the cache anyway.
	verifying bool
	// again asks for another pass once this one's status is stored.
	again bool
	// apiServerTrouble is what keeps the pod of kube-apiserver from being ready.
	apiServerTrouble string

	status       tenancyv1alpha1.VirtualClusterStatus
	requeueAfter time.Duration
}

// knowledge is what earlier passes of this process found out about a virtual
// cluster. It saves requests; losing it costs a few.
type knowledge struct {
	// verified is when all objects were last compared with what they shall be, for
	// the digest of all that they depend on.
	verified time.Time
	digest   string
	// startupFiles, kubeconfig and clusterCA are from the Secrets seen then.
	startupFiles map[string]string
	kubeconfig   []byte
	clusterCA    []byte
	// announced are the events that were written, so that each is written once.
	announced map[string]string
}

func (r *Reconciler) newPass(vc *tenancyv1alpha1.VirtualCluster) *pass {
	tenant := tenantOf(vc)
	p := &pass{
		Reconciler: r, vc: vc, tenant: tenant,
		applier: &apply.Applier{Writer: r.Client, Live: r.Live},
		known:   r.knowledgeOf(vc.UID),
		status:  *vc.Status.DeepCopy(),
	}
	p.status.ControlPlaneNamespace = tenant.ControlPlaneNamespace()
	p.input = controlplane.Input{
		Tenant: tenant, Spec: vc.Spec, Platform: r.Platform,
		Established: vc.Status.Version != "",
	}
	return p
}

// run does the steps in order. A step that fails ends the pass; what it waits for
// stands in its condition.
func (p *pass) run(ctx context.Context) error {
	for _, step := range []struct {
		condition string
		do        func(context.Context) error
	}{
		{tenancyv1alpha1.ConditionReady, p.readClass},
		{tenancyv1alpha1.ConditionNamespaceReady, p.ensureNamespace},
		{tenancyv1alpha1.ConditionNamespaceReady, p.ensureFoundations},
		{tenancyv1alpha1.ConditionCertificatesReady, p.ensureCertificates},
		{tenancyv1alpha1.ConditionAPIServerReady, p.ensureWorkloads},
		{tenancyv1alpha1.ConditionAPIServerReady, p.observeTenant},
	} {
		if err := step.do(ctx); err != nil {
			p.requeueAfter = troubledInterval
			return p.stopped(ctx, step.condition, err)
		}
	}
	p.summarize()
	switch {
	case p.again:
		p.requeueAfter = time.Second
	case p.isTrue(tenancyv1alpha1.ConditionReady):
		p.requeueAfter = verifyInterval + rand.N(verifyInterval/10) // spreads tenants out
	default:
		p.requeueAfter = troubledInterval
	}
	return nil
}

// verificationDue tells whether every object should be looked at in this pass.
func (p *pass) verificationDue() bool {
	interval := verifyInterval
	if !p.isTrue(tenancyv1alpha1.ConditionReady) {
		interval = troubledInterval
	}
	return p.known.digest != p.digest() || p.Now().Sub(p.known.verified) >= interval
}

// digest stands for all that the unwatched objects depend on.
func (p *pass) digest() string {
	input := p.input
	input.StartupFiles = nil
	text, err := json.Marshal(struct {
		Input   controlplane.Input
		Cluster certificates.Cluster
	}{input, p.cluster})
	if err != nil {
		panic(fmt.Sprintf("a struct of plain data cannot be encoded: %v", err))
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (p *pass) certificateInput() (certificates.Cluster, error) {
	serviceCIDR, err := netip.ParsePrefix(p.vc.Spec.ServiceCIDR)
	if err != nil {
		return certificates.Cluster{}, fmt.Errorf("spec.serviceCIDR: %w", err)
	}
	return certificates.Cluster{
		Tenant:      p.tenant,
		SuperDomain: p.Platform.ClusterDomain, ClusterDomain: p.vc.Spec.ClusterDomain,
		ServiceCIDR: serviceCIDR,
		Hosts:       append(p.exposure.hosts, p.vc.Spec.ExtraSANs...),
		InCluster:   controlplane.InClusterURL(p.tenant), External: p.exposure.url,
		Scheduler: controlplane.SchedulerWanted(p.input), MetricsServer: controlplane.MetricsServerWanted(p.input),
	}, nil
}

func (r *Reconciler) knowledgeOf(uid types.UID) *knowledge {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = map[types.UID]*knowledge{}
	}
	if r.known[uid] == nil {
		r.known[uid] = &knowledge{announced: map[string]string{}}
	}
	// Only the one worker that has this virtual cluster uses it.
	return r.known[uid]
}

func (r *Reconciler) forget(uid types.UID) {
	r.tenants.Forget(uid)
	r.metrics.forget(uid)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, uid)
}
